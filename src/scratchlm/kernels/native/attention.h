/* Multi-head attention of one text and one key/value head, scores and weights kept in cache.
 *
 * Texts lie end to end, each `T` tokens from token `first` on. qkv is (tokens, (H + 2G) D): H query heads, then G key heads, then G value heads; query head h uses key/value head
 * h / (H/G) (Ainslie et al. 2023). With `causal` only the lower triangle is computed. */
#ifndef SCRATCHLM_ATTENTION_H
#define SCRATCHLM_ATTENTION_H

#include "matmul.h"

typedef struct {
    int64_t T, H, G, D;
    int64_t blocks; /* of dropout's factors in a row of the longest text */
    int64_t causal;
    float scale;
    Dropout dropout;
    int64_t drop;
} Attention;

/* Rows of scores are padded to whole panels and whole blocks of dropout's factors. */
static int64_t whole_panels(int64_t columns) { return CEIL_DIV(columns, 32) * 32; }

/* [NR-wide panel of columns][k][NR] for a (K x N) matrix that fits in cache. */
INLINE void pack_all(const float *w, int64_t wk, int64_t wn, int64_t K, int64_t N, float *out) {
    for (int64_t n = 0; n < whole_panels(N); n += NR) pack_panel(w + n * wn, wk, wn, K, N - n, out + n * K);
}

/* C (rows x N) (+)= A (element (r, k) at a[r*ar + k*ak]) times a matrix packed by pack_all with `packed_K` rows, of
 * which rows first .. first + K - 1 are used. */
INLINE void multiply_packed(int64_t rows, int64_t K, int64_t N, const float *a, int64_t ar, int64_t ak,
                            const float *packed, int64_t packed_K, int64_t first, float *c, int64_t ldc, int add) {
    for (int64_t n = 0; n < N; n += NR)
        panel(rows, K, a, ar, ak, packed + n * packed_K + first * NR, c + n, ldc, MIN(N - n, NR), add);
}

/* Row r of `rows` becomes exp(scale * (its first valid + r * step columns - their largest)), with zeros from there to
 * `width`, a multiple of NR; inverse[r] is one over the row's sum. One step at a time for all rows: a row's sums over lanes then overlap with the next row's work. */
INLINE void softmax_rows(int64_t rows, int64_t width, int64_t ld, int64_t valid, int64_t step, float scale, float *s,
                         float *inverse) {
    float top[ROWS];
    for (int64_t r = 0; r < rows; r++) {
        vec best = broadcast(-1e30f);
        for (int64_t j = 0; j < width; j += LANES) {
            loose_vec *at = (loose_vec *)(s + r * ld + j);
            *at = choose(first_lanes(valid + r * step - j), *at, broadcast(-1e30f));
            best = choose(*at > best, *at, best);
        }
        top[r] = max_lanes(best);
    }
    for (int64_t r = 0; r < rows; r++) {
        float *row = s + r * ld, largest = top[r];
#pragma omp simd
        for (int64_t j = 0; j < width; j++) row[j] = exp_nonpositive((row[j] - largest) * scale);
    }
    for (int64_t r = 0; r < rows; r++) {
        vec sum = {0};
        for (int64_t j = 0; j < width; j += LANES) {
            loose_vec *at = (loose_vec *)(s + r * ld + j);
            *at = choose(first_lanes(valid + r * step - j), *at, (vec){0});
            sum += *at;
        }
        inverse[r] = 1.0f / sum_lanes(sum);
    }
}

/* Dropout's factors for 32 weights of one row, `index` counting the rows of all heads; ones without dropout. */
INLINE void factors(Attention s, int64_t index, int64_t column, float *factor) {
    if (s.drop)
        draw_block(s.dropout, (uint32_t)(index * s.blocks + column / 32), factor);
    else
        for (int l = 0; l < 32; l++) factor[l] = 1.0f;
}

static int64_t attention_forward_scratch(Attention s) {
    int64_t Tp = whole_panels(s.T), Dp = whole_panels(s.D);
    return Tp * s.D + Dp * s.T + ROWS * Tp;
}

/* out (tokens, H D); this text's weights (H, T, whole_panels(T)) before dropout, kept for the backward pass, or NULL. */
static __attribute__((noinline)) void attention_forward_head(Attention s, int64_t first, int64_t g, const float *qkv,
                                                             float *out, float *weights, float *work) {
    int64_t T = s.T, D = s.D, Tp = whole_panels(T), Dp = whole_panels(D);
    int64_t ld = (s.H + 2 * s.G) * D, group = s.H / s.G;
    float *keys = work, *values = keys + Tp * D, *block = values + Dp * T, inverse[ROWS];
    const float *row0 = qkv + first * ld;
    pack_all(row0 + (s.H + g) * D, 1, ld, D, T, keys);
    pack_all(row0 + (s.H + s.G + g) * D, ld, 1, T, D, values);
    for (int64_t h = g * group; h < (g + 1) * group; h++)
        for (int64_t i = 0; i < T; i += ROWS) {
            int64_t rows = MIN(T - i, ROWS), used = s.causal ? i + rows : T;
            multiply_packed(rows, D, whole_panels(used), row0 + i * ld + h * D, ld, 1, keys, D, 0, block, Tp, 0);
            int64_t width = whole_panels(used);
            softmax_rows(rows, width, Tp, s.causal ? i + 1 : T, s.causal, s.scale, block, inverse);
            for (int64_t r = 0; r < rows; r++) {
                int64_t place = h * T + i + r, index = first * s.H + place;
                float *restrict row = block + r * Tp, *restrict keep = weights ? weights + place * Tp : row;
                for (int64_t j = 0; j < width; j += 32) {
                    float factor[32];
                    factors(s, index, j, factor);
#pragma omp simd
                    for (int l = 0; l < 32; l++) {
                        float weight = row[j + l] * inverse[r];
                        keep[j + l] = weight;
                        row[j + l] = weight * factor[l];
                    }
                }
            }
            multiply_packed(rows, used, D, block, Tp, 1, values, T, 0, out + (first + i) * s.H * D + h * D, s.H * D, 0);
        }
}

static int64_t attention_backward_scratch(Attention s) {
    int64_t Tp = whole_panels(s.T), Dp = whole_panels(s.D);
    return Tp * s.D + 3 * Dp * s.T + 2 * s.T * Tp;
}

/* dqkv from dout, with P the softmax weights, M dropout's factors, O = (P*M) V and S the scaled scores:
 * dV = (P*M)^T dO, dP = (dO V^T)*M, dS = P*(dP - rowsum(P*dP)), dQ = scale dS K, dK = scale dS^T Q. */
static __attribute__((noinline)) void attention_backward_head(Attention s, int64_t first, int64_t g, const float *qkv,
                                                              const float *weights, const float *dout, float *dqkv,
                                                              float *work) {
    int64_t T = s.T, D = s.D, Tp = whole_panels(T), Dp = whole_panels(D);
    int64_t ld = (s.H + 2 * s.G) * D, ldo = s.H * D, group = s.H / s.G;
    float *values = work, *keys = values + Tp * D, *queries = keys + Dp * T, *outer = queries + Dp * T;
    float *dropped = outer + Dp * T, *ds = dropped + T * Tp;
    const float *row0 = qkv + first * ld;
    float *drow0 = dqkv + first * ld, *dkeys = drow0 + (s.H + g) * D, *dvalues = dkeys + s.G * D;
    pack_all(row0 + (s.H + s.G + g) * D, 1, ld, D, T, values);
    pack_all(row0 + (s.H + g) * D, ld, 1, T, D, keys);
    for (int64_t h = g * group; h < (g + 1) * group; h++) {
        const float *dout_h = dout + first * ldo + h * D;
        pack_all(row0 + h * D, ld, 1, T, D, queries);
        pack_all(dout_h, ldo, 1, T, D, outer);
        for (int64_t i = 0; i < T; i += ROWS) {
            int64_t rows = MIN(T - i, ROWS), used = s.causal ? i + rows : T, width = whole_panels(used);
            multiply_packed(rows, D, width, dout_h + i * ldo, ldo, 1, values, D, 0, ds + i * Tp, Tp, 0);
            float dot[ROWS];
            for (int64_t r = 0; r < rows; r++) {
                int64_t place = h * T + i + r, index = first * s.H + place;
                const float *restrict p = weights + place * Tp;
                float *restrict pd = dropped + (i + r) * Tp, *restrict d = ds + (i + r) * Tp;
                vec sum = {0};
                for (int64_t j = 0; j < width; j += 32) {
                    float factor[32];
                    factors(s, index, j, factor);
#pragma omp simd
                    for (int l = 0; l < 32; l++) {
                        pd[j + l] = p[j + l] * factor[l];
                        d[j + l] *= factor[l];
                    }
                    for (int l = 0; l < 32; l += LANES) sum += *(loose_vec *)(d + j + l) * *(loose_vec *)(p + j + l);
                }
                dot[r] = sum_lanes(sum);
            }
            for (int64_t r = 0; r < rows; r++) {
                const float *restrict p = weights + (h * T + i + r) * Tp;
                float *restrict d = ds + (i + r) * Tp;
#pragma omp simd
                for (int64_t j = 0; j < width; j++) d[j] = s.scale * p[j] * (d[j] - dot[r]);
            }
            multiply_packed(rows, used, D, ds + i * Tp, Tp, 1, keys, T, 0, drow0 + i * ld + h * D, ld, 0);
        }
        for (int64_t j = 0; j < T; j += ROWS) { /* key j is seen by queries `first` and later */
            int64_t rows = MIN(T - j, ROWS), from = s.causal ? j : 0, add = h > g * group;
            multiply_packed(rows, T - from, D, ds + from * Tp + j, 1, Tp, queries, T, from, dkeys + j * ld, ld, add);
            multiply_packed(rows, T - from, D, dropped + from * Tp + j, 1, Tp, outer, T, from, dvalues + j * ld, ld,
                            add);
        }
    }
}

#endif
