/* The operations that Python calls. All matrices are contiguous float32 in row-major order; M is the number of tokens.
 * Sums over tokens are taken chunk by chunk in a fixed order: for one seed the results are the same bits whatever the
 * number of threads. Every whole number arrives as int64_t and every fraction as float: build.py passes them so. */
#include "attention.h"
#include "matmul.h"
#include "norms.h"
#include "vector.h"

/* ---- element-wise operations ------------------------------------------------------------------------------- */

/* out = x * mask (+ residual). The backward pass is the same call on the gradient, without a residual. */
void dropout_rows(int64_t M, int64_t C, const float *x, const float *residual, float *out, float probability,
                  int64_t seed, int64_t threads) {
    Dropout d = make_dropout(seed, probability);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t m = 0; m < M; m++) drop_row(d, m, C, C, x + m * C, residual ? residual + m * C : NULL, out + m * C);
}

void gelu_forward(int64_t n, const float *restrict x, float *restrict out, int64_t threads) {
#pragma omp parallel for simd schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; i++) {
        float slope;
        out[i] = gelu_and_slope(x[i], &slope);
    }
}

void gelu_backward(int64_t n, const float *restrict x, const float *restrict dy, float *restrict dx, int64_t threads) {
#pragma omp parallel for simd schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; i++) {
        float slope;
        gelu_and_slope(x[i], &slope);
        dx[i] = dy[i] * slope;
    }
}

/* statistics: (M, 2), each row's mean and reciprocal deviation. */
void norm_forward(int64_t M, int64_t C, const float *x, const float *weight, const float *bias, float eps, int64_t center,
                  float *y, float *statistics, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t m = 0; m < M; m++)
        norm_row(C, x + m * C, weight, bias, eps, center, y + m * C, statistics + 2 * m, statistics + 2 * m + 1);
}

/* dbias may be NULL. work: norm_work(M, C). */
void norm_backward(int64_t M, int64_t C, const float *x, const float *statistics, const float *dy, const float *weight,
                   int64_t center, float *dx, float *dweight, float *dbias, float *work, int64_t threads) {
    float *partial = work;
    int64_t chunks = CEIL_DIV(M, ROWS);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic)
        for (int64_t c = 0; c < chunks; c++) {
            float *sums = memset(partial + c * 2 * C, 0, (size_t)(2 * C) * sizeof(float));
            for (int64_t m = c * ROWS; m < MIN(M, (c + 1) * ROWS); m++)
                norm_row_backward(C, x + m * C, dy + m * C, weight, statistics[2 * m], statistics[2 * m + 1], center,
                                  NULL, dx + m * C, sums, sums + C);
        }
        sum_chunks(chunks, 2 * C, C, partial, dweight);
        sum_chunks(chunks, 2 * C, C, partial + C, dbias);
    }
}

/* ---- attention --------------------------------------------------------------------------------------------- */

/* `bounds` (texts + 1): where each text begins, and where the last one ends. */
static Attention make_attention(int64_t texts, const int64_t *bounds, int64_t H, int64_t G, int64_t D, int64_t causal,
                                float scale, float probability, int64_t seed) {
    Attention s = {0, H, G, D, 0, causal, scale, make_dropout(seed, probability), probability > 0};
    for (int64_t i = 0; i < texts; i++) s.T = MAX(s.T, bounds[i + 1] - bounds[i]);
    s.blocks = whole_panels(s.T) / 32;
    return s;
}

static Attention one_text(Attention s, const int64_t *bounds, int64_t text) {
    s.T = bounds[text + 1] - bounds[text];
    return s;
}

/* How many numbers the weights of all texts are. */
int64_t attention_weights(int64_t texts, const int64_t *bounds, int64_t H) {
    int64_t total = 0;
    for (int64_t i = 0; i < texts; i++) total += H * (bounds[i + 1] - bounds[i]) * whole_panels(bounds[i + 1] - bounds[i]);
    return total;
}

void attention_forward(int64_t texts, const int64_t *bounds, int64_t H, int64_t G, int64_t D, int64_t causal, float scale,
                       float probability, int64_t seed, const float *qkv, float *out, float *weights, int64_t threads) {
    Attention longest = make_attention(texts, bounds, H, G, D, causal, scale, probability, seed);
#pragma omp parallel num_threads(threads)
    {
        float *work = scratch(attention_forward_scratch(longest));
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < texts * G; job++) {
            int64_t text = job / G;
            Attention s = one_text(longest, bounds, text);
            float *keep = weights ? weights + attention_weights(text, bounds, H) : NULL;
            attention_forward_head(s, bounds[text], job % G, qkv, out, keep, work);
        }
        free(work);
    }
}

void attention_backward(int64_t texts, const int64_t *bounds, int64_t H, int64_t G, int64_t D, int64_t causal, float scale,
                        float probability, int64_t seed, const float *qkv, const float *weights, const float *dout,
                        float *dqkv, int64_t threads) {
    Attention longest = make_attention(texts, bounds, H, G, D, causal, scale, probability, seed);
#pragma omp parallel num_threads(threads)
    {
        float *work = scratch(attention_backward_scratch(longest));
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < texts * G; job++) {
            int64_t text = job / G;
            Attention s = one_text(longest, bounds, text);
            attention_backward_head(s, bounds[text], job % G, qkv, weights + attention_weights(text, bounds, H), dout, dqkv,
                                    work);
        }
        free(work);
    }
}

/* Turn the first `turned` of each token's heads by its angles (Su et al. 2021), cos and sin (tokens, D / 2); the others
 * are copied. The backward pass is the same call with the sines' sign changed. */
void rotate_heads(int64_t tokens, int64_t heads, int64_t turned, int64_t D, float sign, const float *x, const float *cos,
                  const float *sin, float *out, int64_t threads) {
    int64_t pairs = D / 2;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t t = 0; t < tokens; t++) {
        const float *restrict c = cos + t * pairs, *restrict s = sin + t * pairs;
        for (int64_t h = 0; h < turned; h++) {
            const float *restrict from = x + (t * heads + h) * D;
            float *restrict to = out + (t * heads + h) * D;
#pragma omp simd
            for (int64_t i = 0; i < pairs; i++) {
                to[i] = from[i] * c[i] - sign * from[i + pairs] * s[i];
                to[i + pairs] = from[i + pairs] * c[i] + sign * from[i] * s[i];
            }
        }
        memcpy(out + (t * heads + turned) * D, x + (t * heads + turned) * D, (size_t)((heads - turned) * D) * 4);
    }
}

/* ---- norm, then a linear layer ------------------------------------------------------------------------------ */

/* y = norm(x) W^T + bias, x (M, C), y (M, N). work: linear_work(M, C, N). */
void norm_linear_forward(int64_t M, int64_t C, int64_t N, const float *x, const float *norm_weight,
                         const float *norm_bias, float eps, int64_t center, const float *weight, const float *bias,
                         float *statistics, float *y, float *work, int64_t threads) {
    float *packed = work;
#pragma omp parallel num_threads(threads)
    {
        float *normed = scratch(ROWS * C);
        pack(weight, 1, C, N, C, packed);
#pragma omp for schedule(dynamic)
        for (int64_t m0 = 0; m0 < M; m0 += ROWS) {
            int64_t rows = MIN(M - m0, ROWS);
            norm_chunk(C, m0, rows, x, norm_weight, norm_bias, eps, center, normed, statistics);
            multiply(rows, N, C, normed, C, packed, y + m0 * N, N);
            if (bias)
                for (int64_t m = m0; m < m0 + rows; m++) add_row(N, bias, y + m * N);
        }
        free(normed);
    }
}

/* dx = the gradient through norm and layer, + dresidual where x also went on past them. The norm is computed again
 * instead of being kept. Every gradient but dx may be NULL. work: linear_work(M, C, N). */
void norm_linear_backward(int64_t M, int64_t C, int64_t N, const float *x, const float *norm_weight,
                          const float *norm_bias, int64_t center, const float *weight, const float *statistics,
                          const float *dy, const float *dresidual, float *dx, float *dnorm_weight, float *dnorm_bias,
                          float *dweight, float *dbias, float *work, int64_t threads) {
    int64_t chunks = CEIL_DIV(M, ROWS), stride = 2 * C + N;
    float *packed = work, *dy_kept = packed + packed_floats(C, N), *normed_kept = dy_kept + grouped_floats(M, N, MR);
    float *partial = normed_kept + grouped_floats(M, C, NR);
#pragma omp parallel num_threads(threads)
    {
        float *dnormed = scratch((ROWS + 1) * C), *normed = dnormed + ROWS * C;
        pack(weight, C, 1, C, N, packed);
#pragma omp for schedule(dynamic)
        for (int64_t c = 0; c < chunks; c++) {
            int64_t m0 = c * ROWS, rows = MIN(M - m0, ROWS);
            float *sums = memset(partial + c * stride, 0, (size_t)stride * sizeof(float));
            multiply(rows, C, N, dy + m0 * N, N, packed, dnormed, C);
            for (int64_t m = m0; m < m0 + rows; m++) {
                float mean = statistics[2 * m], rstd = statistics[2 * m + 1];
                if (dbias) add_row(N, dy + m * N, sums + 2 * C);
                if (dweight) {
                    apply_norm(C, x + m * C, norm_weight, norm_bias, mean, rstd, normed);
                    keep_row(NR, normed_kept, M, C, m, normed);
                    keep_row(MR, dy_kept, M, N, m, dy + m * N);
                }
                norm_row_backward(C, x + m * C, dnormed + (m - m0) * C, norm_weight, mean, rstd, center,
                                  dresidual ? dresidual + m * C : NULL, dx + m * C, sums, sums + C);
            }
        }
        free(dnormed);
        sum_chunks(chunks, stride, C, partial, dnorm_weight);
        sum_chunks(chunks, stride, C, partial + C, dnorm_bias);
        sum_chunks(chunks, stride, N, partial + 2 * C, dbias);
        if (dweight) weight_gradient(N, C, M, dy_kept, normed_kept, dweight, threads);
    }
}

/* ---- a linear layer, then dropout and the residual ---------------------------------------------------------- */

/* y (M, N) = residual + dropout(x W^T + bias), x (M, K). residual and bias may be NULL.
 * work: linear_work(M, K, N). */
void linear_dropout_forward(int64_t M, int64_t K, int64_t N, const float *x, const float *weight, const float *bias,
                            const float *residual, float probability, int64_t seed, float *y, float *work,
                            int64_t threads) {
    Dropout d = make_dropout(seed, probability);
    float *packed = work;
#pragma omp parallel num_threads(threads)
    {
        float *product = scratch(ROWS * N);
        pack(weight, 1, K, N, K, packed);
#pragma omp for schedule(dynamic)
        for (int64_t m0 = 0; m0 < M; m0 += ROWS) {
            int64_t rows = MIN(M - m0, ROWS);
            multiply(rows, N, K, x + m0 * K, K, packed, product, N);
            for (int64_t m = m0; m < m0 + rows; m++) {
                float *row = product + (m - m0) * N;
                if (bias) add_row(N, bias, row);
                drop_row(d, m, N, N, row, residual ? residual + m * N : NULL, y + m * N);
            }
        }
        free(product);
    }
}

/* dbias and dweight may be NULL. work: linear_work(M, K, N). */
void linear_dropout_backward(int64_t M, int64_t K, int64_t N, const float *x, const float *weight, float probability,
                             int64_t seed, const float *dy, float *dx, float *dweight, float *dbias, float *work,
                             int64_t threads) {
    Dropout d = make_dropout(seed, probability);
    int64_t chunks = CEIL_DIV(M, ROWS);
    float *packed = work, *dy_kept = packed + packed_floats(K, N), *x_kept = dy_kept + grouped_floats(M, N, MR);
    float *partial = x_kept + grouped_floats(M, K, NR);
#pragma omp parallel num_threads(threads)
    {
        float *dmasked = scratch(ROWS * N);
        pack(weight, K, 1, K, N, packed);
#pragma omp for schedule(dynamic)
        for (int64_t c = 0; c < chunks; c++) {
            int64_t m0 = c * ROWS, rows = MIN(M - m0, ROWS);
            float *sums = memset(partial + c * N, 0, (size_t)N * sizeof(float));
            for (int64_t m = m0; m < m0 + rows; m++) {
                float *row = dmasked + (m - m0) * N;
                drop_row(d, m, N, N, dy + m * N, NULL, row);
                add_row(N, row, sums);
                if (dweight) {
                    keep_row(MR, dy_kept, M, N, m, row);
                    keep_row(NR, x_kept, M, K, m, x + m * K);
                }
            }
            multiply(rows, K, N, dmasked, N, packed, dx + m0 * K, K);
        }
        free(dmasked);
        sum_chunks(chunks, N, N, partial, dbias);
        if (dweight) weight_gradient(N, K, M, dy_kept, x_kept, dweight, threads);
    }
}

/* ---- what the caller has to make room for, in floats --------------------------------------------------------- */

/* Rows kept in groups of NR for a weight's gradient. */
int64_t kept_floats(int64_t M, int64_t columns) { return grouped_floats(M, columns, NR); }

/* Working memory of the operations on one linear layer with K inputs and N outputs: the packed weight and, backward,
 * both factors of the weight's gradient in their groups and each chunk's sums over tokens. */
int64_t linear_work(int64_t M, int64_t K, int64_t N) {
    return MAX(packed_floats(K, N), packed_floats(N, K)) + grouped_floats(M, N, MR) + grouped_floats(M, K, NR) +
           CEIL_DIV(M, ROWS) * (2 * K + N);
}

int64_t norm_work(int64_t M, int64_t C) { return CEIL_DIV(M, ROWS) * 2 * C; }
