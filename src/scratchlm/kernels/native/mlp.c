/* The feed-forward sub-layer as one operation. The conventions are those of native.c. */
#include "matmul.h"
#include "norms.h"
#include "vector.h"

/* y = x + dropout(W2 gelu(W1 norm(x) + b1) + b2); C wide outside, F inside. For the backward pass: statistics, gelu's
 * value in groups of NR (hidden_kept) and its derivative (slope, M x F); the last two NULL where not wanted.
 * work: mlp_work(M, C, F). */
void mlp_forward(int64_t M, int64_t C, int64_t F, const float *x, const float *norm_weight, const float *norm_bias,
                 float eps, int64_t center, const float *w1, const float *b1, const float *w2, const float *b2,
                 float probability, int64_t seed, float *y, float *statistics, float *hidden_kept,
                 float *slope, float *work, int64_t threads) {
    Dropout d = make_dropout(seed, probability);
    float *packed1 = work, *packed2 = work + packed_floats(F, C);
#pragma omp parallel num_threads(threads)
    {
        float *normed = scratch(ROWS * (2 * C + F) + F), *product = normed + ROWS * C, *hidden = product + ROWS * C;
        pack(w1, 1, C, F, C, packed1);
        pack(w2, 1, F, C, F, packed2);
#pragma omp for schedule(dynamic)
        for (int64_t m0 = 0; m0 < M; m0 += ROWS) {
            int64_t rows = MIN(M - m0, ROWS);
            norm_chunk(C, m0, rows, x, norm_weight, norm_bias, eps, center, normed, statistics);
            multiply(rows, F, C, normed, C, packed1, hidden, F);
            for (int64_t m = m0; m < m0 + rows; m++) {
                float *restrict h = hidden + (m - m0) * F, *restrict s = slope ? slope + m * F : hidden + ROWS * F;
                if (b1) add_row(F, b1, h);
#pragma omp simd
                for (int64_t j = 0; j < F; j++) h[j] = gelu_and_slope(h[j], &s[j]);
                if (hidden_kept) keep_row(NR, hidden_kept, M, F, m, h);
            }
            multiply(rows, C, F, hidden, F, packed2, product, C);
            for (int64_t m = m0; m < m0 + rows; m++) {
                if (b2) add_row(C, b2, product + (m - m0) * C);
                drop_row(d, m, C, C, product + (m - m0) * C, x + m * C, y + m * C);
            }
        }
        free(normed);
    }
}

/* The weights' and biases' gradients may be NULL. work: mlp_work(M, C, F). */
void mlp_backward(int64_t M, int64_t C, int64_t F, const float *x, const float *norm_weight,
                  const float *norm_bias, int64_t center,
                  const float *w1, const float *w2, float probability, int64_t seed, const float *statistics,
                  const float *hidden_kept, const float *slope, const float *dy, float *dx,
                  float *dnorm_weight, float *dnorm_bias, float *dw1, float *db1, float *dw2, float *db2,
                  float *work, int64_t threads) {
    Dropout d = make_dropout(seed, probability);
    int64_t chunks = CEIL_DIV(M, ROWS), stride = 3 * C + F;
    float *packed2 = work, *packed1 = packed2 + packed_floats(F, C), *dy_kept = packed1 + packed_floats(C, F);
    float *dhidden_kept = dy_kept + grouped_floats(M, C, MR), *normed_kept = dhidden_kept + grouped_floats(M, F, MR);
    float *partial = normed_kept + grouped_floats(M, C, NR);
#pragma omp parallel num_threads(threads)
    {
        float *dnormed = scratch(ROWS * (2 * C + F) + C), *dmasked = dnormed + ROWS * C, *dhidden = dmasked + ROWS * C;
        float *normed = dhidden + ROWS * F;
        pack(w2, F, 1, F, C, packed2);
        pack(w1, C, 1, C, F, packed1);
#pragma omp for schedule(dynamic)
        for (int64_t c = 0; c < chunks; c++) {
            int64_t m0 = c * ROWS, rows = MIN(M - m0, ROWS);
            float *sums = memset(partial + c * stride, 0, (size_t)stride * sizeof(float));
            for (int64_t m = m0; m < m0 + rows; m++) {
                float *row = dmasked + (m - m0) * C;
                drop_row(d, m, C, C, dy + m * C, NULL, row);
                add_row(C, row, sums + 2 * C);
                if (dw2) keep_row(MR, dy_kept, M, C, m, row);
            }
            multiply(rows, F, C, dmasked, C, packed2, dhidden, F);
            for (int64_t m = m0; m < m0 + rows; m++) {
                float *restrict dh = dhidden + (m - m0) * F, *restrict total = sums + 3 * C;
                const float *restrict s = slope + m * F;
#pragma omp simd
                for (int64_t j = 0; j < F; j++) {
                    dh[j] *= s[j];
                    total[j] += dh[j];
                }
                if (dw1) keep_row(MR, dhidden_kept, M, F, m, dh);
            }
            multiply(rows, C, F, dhidden, F, packed1, dnormed, C);
            for (int64_t m = m0; m < m0 + rows; m++) {
                float mean = statistics[2 * m], rstd = statistics[2 * m + 1];
                if (dw1) {
                    apply_norm(C, x + m * C, norm_weight, norm_bias, mean, rstd, normed);
                    keep_row(NR, normed_kept, M, C, m, normed);
                }
                norm_row_backward(C, x + m * C, dnormed + (m - m0) * C, norm_weight, mean, rstd, center, dy + m * C,
                                  dx + m * C, sums, sums + C);
            }
        }
        free(dnormed);
        sum_chunks(chunks, stride, C, partial, dnorm_weight);
        sum_chunks(chunks, stride, C, partial + C, dnorm_bias);
        sum_chunks(chunks, stride, C, partial + 2 * C, db2);
        sum_chunks(chunks, stride, F, partial + 3 * C, db1);
        if (dw2) weight_gradient(C, F, M, dy_kept, hidden_kept, dw2, threads);
        if (dw1) weight_gradient(F, C, M, dhidden_kept, normed_kept, dw1, threads);
    }
}
int64_t mlp_work(int64_t M, int64_t C, int64_t F) {
    return packed_floats(F, C) + packed_floats(C, F) + grouped_floats(M, C, MR) + grouped_floats(M, F, MR) +
           grouped_floats(M, C, NR) + CEIL_DIV(M, ROWS) * (3 * C + F);
}
