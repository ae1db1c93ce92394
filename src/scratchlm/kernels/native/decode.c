/* One decoding step of a decoder-only model: a token for each row goes in, the next token's logits come out.
 *
 * A small model spends its time between operators, not in them: a step of TinyGPT is a fifth of a millisecond of calls
 * around a tenth of a millisecond of arithmetic. Here the whole step is one call on the model's own weights, read in
 * place as (out, in) matrices, and on the same key-value cache that the model's PyTorch path fills.
 *
 * Each row is computed by the same instructions whatever the number of rows, so a row's logits do not depend on its
 * neighbours. Every pointer that a model has no tensor for is NULL.
 */
#include <math.h>

#include "vector.h"

enum { RELU, GELU, GELU_TANH, SWIGLU, RELU2 };

typedef struct {
    const float *norm1_weight, *norm1_bias;
    const float *qkv_weight, *qkv_bias, *q_norm, *k_norm;
    const float *out_weight, *out_bias;
    const float *norm2_weight, *norm2_bias;
    const float *up_weight, *up_bias, *down_weight, *down_bias;
} Layer;

typedef struct {
    const Layer *layers;
    const float *tokens, *positions, *types;                /* (V, C), (context, C), the first of (types, C) */
    const float *embed_norm_weight, *embed_norm_bias;
    const float *cos, *sin;                                 /* (context, D / 2) */
    const float *norm_weight, *norm_bias;
    const float *head_weight, *head_bias;
    float embedding_scale, eps;
    int32_t layer_count, width, heads, kv_heads, head_size, ffn, vocab, activation, rms, pre, threads;
} Model;

INLINE vec load(const float *p) { return *(const loose_vec *)p; }

INLINE float sum(vec v) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}

static float dot(const float *a, const float *b, int n) {
    vec s = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES) s += load(a + i) * load(b + i);
    float total = sum(s);
    for (; i < n; i++) total += a[i] * b[i];
    return total;
}

/* Outputs o to o + 3 of every row: four rows of W at a time, each read once for all rows of x. */
static void linear_four(const float *weight, const float *x, float *y, int rows, int in, int out, int o) {
    const float *w0 = weight + (int64_t)o * in, *w1 = w0 + in, *w2 = w1 + in, *w3 = w2 + in;
    for (int r = 0; r < rows; r++) {
        const float *xr = x + (int64_t)r * in;
        float *yr = y + (int64_t)r * out + o;
        vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        int i = 0;
        for (; i + LANES <= in; i += LANES) {
            vec xi = load(xr + i);
            s0 += load(w0 + i) * xi;
            s1 += load(w1 + i) * xi;
            s2 += load(w2 + i) * xi;
            s3 += load(w3 + i) * xi;
        }
        float t0 = sum(s0), t1 = sum(s1), t2 = sum(s2), t3 = sum(s3);
        for (; i < in; i++) {
            t0 += w0[i] * xr[i];
            t1 += w1[i] * xr[i];
            t2 += w2[i] * xr[i];
            t3 += w3[i] * xr[i];
        }
        yr[0] = t0, yr[1] = t1, yr[2] = t2, yr[3] = t3;
    }
}

/* A matrix of this many numbers, 2 MB, comes from beyond a core's own cache and is worth waking the others for. */
enum { SHARED = 1 << 19 };

/* y (rows, out) = x (rows, in) W^T + bias. */
static void linear(const float *weight, const float *bias, const float *x, float *y, int rows, int in, int out,
                   int threads) {
    int whole = out / 4 * 4;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && (int64_t)in * out >= SHARED)
    for (int o = 0; o < whole; o += 4) linear_four(weight, x, y, rows, in, out, o);
    for (int o = whole; o < out; o++)
        for (int r = 0; r < rows; r++)
            y[(int64_t)r * out + o] = dot(weight + (int64_t)o * in, x + (int64_t)r * in, in);
    if (bias)
        for (int r = 0; r < rows; r++) add_row(out, bias, y + (int64_t)r * out);
}

/* LayerNorm (Ba et al. 2016, eq. 4) or RMSNorm (Zhang and Sennrich 2019, eq. 4) of rows of n. y may be x. */
static void norm(const float *x, const float *weight, const float *bias, float *y, int rows, int n, float eps, int rms) {
    for (int r = 0; r < rows; r++, x += n, y += n) {
        float mean = 0, square = 0;
        if (!rms) {
            vec s = {0};
            int i = 0;
            for (; i + LANES <= n; i += LANES) s += load(x + i);
            mean = sum(s);
            for (; i < n; i++) mean += x[i];
            mean /= n;
        }
        vec s = {0};
        int i = 0;
        for (; i + LANES <= n; i += LANES) {
            vec d = load(x + i) - mean;
            s += d * d;
        }
        square = sum(s);
        for (; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
        float scale = 1.0f / sqrtf(square / n + eps);
        for (int j = 0; j < n; j++) y[j] = (x[j] - mean) * scale * weight[j];
        if (bias)
            for (int j = 0; j < n; j++) y[j] += bias[j];
    }
}

INLINE float sigmoid(float x) {
    float e = exp_nonpositive(x < 0 ? x : -x);
    return (x < 0 ? e : 1.0f) / (1.0f + e);
}

/* h (rows, n) in place; for SWIGLU h is (rows, 2n), gate first, and the result is packed to (rows, n). */
static void activate(float *h, int rows, int n, int activation) {
    int count = rows * n;
    switch (activation) {
    case RELU:
        for (int i = 0; i < count; i++) h[i] = h[i] > 0 ? h[i] : 0;
        break;
    case RELU2:
        for (int i = 0; i < count; i++) h[i] = h[i] > 0 ? h[i] * h[i] : 0;
        break;
    case GELU:
        for (int i = 0; i < count; i++) {
            float slope;
            h[i] = gelu_and_slope(h[i], &slope);
        }
        break;
    case GELU_TANH: /* 0.5 (1 + tanh u) is the sigmoid of 2u */
        for (int i = 0; i < count; i++) h[i] *= sigmoid(1.595769122f * (h[i] + 0.044715f * h[i] * h[i] * h[i]));
        break;
    case SWIGLU:
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < n; j++) {
                float gate = h[(int64_t)r * 2 * n + j], up = h[(int64_t)r * 2 * n + n + j];
                h[(int64_t)r * n + j] = gate * sigmoid(gate) * up;
            }
        break;
    }
}

/* Turn each pair (i, i + D/2) of each head (Su et al. 2021). */
static void rotate(float *x, const float *cos, const float *sin, int heads, int size) {
    int half = size / 2;
    for (int h = 0; h < heads; h++, x += size)
        for (int i = 0; i < half; i++) {
            float first = x[i], second = x[i + half];
            x[i] = first * cos[i] - second * sin[i];
            x[i + half] = second * cos[i] + first * sin[i];
        }
}

/* One query row (H, D) over a cache of n tokens, keys and values (K, capacity, D) -> mixed (H, D). */
static void attend(const float *q, const float *keys, const float *values, float *mixed, float *scores, int heads,
                   int kv_heads, int size, int n, int64_t capacity) {
    float scale = 1.0f / sqrtf((float)size);
    for (int h = 0; h < heads; h++, q += size, mixed += size) {
        int64_t group = h / (heads / kv_heads) * capacity * size;
        const float *k = keys + group, *v = values + group;
        float top = -INFINITY, total = 0;
        for (int t = 0; t < n; t++) {
            scores[t] = dot(q, k + (int64_t)t * size, size) * scale;
            top = scores[t] > top ? scores[t] : top;
        }
        for (int t = 0; t < n; t++) scores[t] = exp_nonpositive(scores[t] - top);
        for (int t = 0; t < n; t++) total += scores[t];
        for (int i = 0; i < size; i++) mixed[i] = 0;
        for (int t = 0; t < n; t++) {
            float share = scores[t] / total;
            for (int i = 0; i < size; i++) mixed[i] += share * v[(int64_t)t * size + i];
        }
    }
}

/* How many floats of scratch memory a step needs. */
int64_t decode_scratch(const Model *m, int32_t rows, int64_t capacity) {
    int64_t gates = m->activation == SWIGLU ? 2 : 1;
    int64_t packed = (int64_t)(m->heads + 2 * m->kv_heads) * m->head_size, mixed = (int64_t)m->heads * m->head_size;
    return rows * (3 * (int64_t)m->width + packed + mixed + gates * m->ffn) + capacity;
}

/* Feed ids (rows,) at position `length`; keys and values are (layers, rows, K, capacity, D), logits (rows, V). */
void decode_step(const Model *m, const int64_t *ids, int32_t rows, int64_t length, int64_t capacity, float *keys,
                 float *values, float *scratch, float *logits) {
    int width = m->width, size = m->head_size, heads = m->heads, kv_heads = m->kv_heads;
    int packed = (heads + 2 * kv_heads) * size, mixed_size = heads * size, gates = m->activation == SWIGLU ? 2 : 1;
    float *x = scratch, *y = x + (int64_t)rows * width, *z = y + (int64_t)rows * width;
    float *qkv = z + (int64_t)rows * width, *mixed = qkv + (int64_t)rows * packed;
    float *hidden = mixed + (int64_t)rows * mixed_size;
    float *scores = hidden + (int64_t)rows * gates * m->ffn;

    for (int r = 0; r < rows; r++) {
        float *xr = x + (int64_t)r * width;
        const float *token = m->tokens + ids[r] * width;
        for (int i = 0; i < width; i++) xr[i] = token[i] * m->embedding_scale;
        if (m->positions) add_row(width, m->positions + length * width, xr);
        if (m->types) add_row(width, m->types, xr);
    }
    if (m->embed_norm_weight) norm(x, m->embed_norm_weight, m->embed_norm_bias, x, rows, width, m->eps, m->rms);

    for (int l = 0; l < m->layer_count; l++) {
        const Layer *w = m->layers + l;
        const float *input = x;
        if (m->pre) norm(x, w->norm1_weight, w->norm1_bias, y, rows, width, m->eps, m->rms), input = y;
        linear(w->qkv_weight, w->qkv_bias, input, qkv, rows, width, packed, m->threads);
        for (int r = 0; r < rows; r++) {
            float *q = qkv + (int64_t)r * packed, *k = q + heads * size, *v = k + kv_heads * size;
            if (w->q_norm) {
                norm(q, w->q_norm, NULL, q, heads, size, m->eps, 1);
                norm(k, w->k_norm, NULL, k, kv_heads, size, m->eps, 1);
            }
            if (m->cos) rotate(q, m->cos + length * (size / 2), m->sin + length * (size / 2), heads + kv_heads, size);
            int64_t row = ((int64_t)l * rows + r) * kv_heads * capacity * size;
            for (int h = 0; h < kv_heads; h++) {
                int64_t slot = row + ((int64_t)h * capacity + length) * size;
                memcpy(keys + slot, k + h * size, size * sizeof(float));
                memcpy(values + slot, v + h * size, size * sizeof(float));
            }
            attend(q, keys + row, values + row, mixed + (int64_t)r * mixed_size, scores, heads, kv_heads, size,
                   (int)length + 1, capacity);
        }
        linear(w->out_weight, w->out_bias, mixed, z, rows, mixed_size, width, m->threads);
        add_row((int64_t)rows * width, z, x);
        if (!m->pre) norm(x, w->norm1_weight, w->norm1_bias, x, rows, width, m->eps, m->rms);

        input = x;
        if (m->pre) norm(x, w->norm2_weight, w->norm2_bias, y, rows, width, m->eps, m->rms), input = y;
        linear(w->up_weight, w->up_bias, input, hidden, rows, width, gates * m->ffn, m->threads);
        activate(hidden, rows, m->ffn, m->activation);
        linear(w->down_weight, w->down_bias, hidden, z, rows, m->ffn, width, m->threads);
        add_row((int64_t)rows * width, z, x);
        if (!m->pre) norm(x, w->norm2_weight, w->norm2_bias, x, rows, width, m->eps, m->rms);
    }
    if (m->norm_weight) norm(x, m->norm_weight, m->norm_bias, x, rows, width, m->eps, m->rms);
    linear(m->head_weight, m->head_bias, x, logits, rows, width, m->vocab, m->threads);
}
