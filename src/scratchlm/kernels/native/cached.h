/* Attention of new tokens over a key-value cache, in one or many sequences of different lengths.
 *
 * A cache holds, for each layer, sequence and key/value head, the keys in blocks of NR tokens, [block][D][NR], and the
 * values in strips of NR coordinates, [strip][capacity][NR]: the panels that matmul.h multiplies with, so that scores
 * and mixtures need no packing. Every sum runs over coordinates or tokens in order, whatever the number of queries
 * computed together: a token's result does not depend on its neighbours, or on how its prompt was cut. */
#ifndef SCRATCHLM_CACHED_H
#define SCRATCHLM_CACHED_H

#include "matmul.h"

typedef struct {
    int32_t heads, kv_heads, size; /* H, K, D */
    int64_t capacity;              /* tokens of a sequence, a multiple of NR */
    int64_t window;                /* tokens seen, the asking one among them; 0 for all */
    int32_t causal;
} Shape;

static int64_t strips(int64_t D) { return CEIL_DIV(D, NR); }

static void store_key(Shape s, float *keys, int64_t place, const float *key) {
    float *to = keys + place / NR * s.size * NR + place % NR;
    for (int d = 0; d < s.size; d++) to[d * NR] = key[d];
}

static void store_value(Shape s, float *values, int64_t place, const float *value) {
    for (int64_t p = 0; p < strips(s.size); p++)
        for (int64_t i = 0; i < NR; i++)
            values[(p * s.capacity + place) * NR + i] = p * NR + i < s.size ? value[p * NR + i] : 0.0f;
}

/* row[0..width), of which only from <= j < to counts, becomes exp(row - largest), 0 elsewhere; returns 1 / its sum.
 * width and the address's place in a vector are multiples of LANES. */
static float softmax_part(float *row, int64_t width, int64_t from, int64_t to) {
    const vec nothing = broadcast(-1e30f);
    vec best = nothing, total = {0};
    for (int64_t j = 0; j < width; j += LANES) {
        loose_vec *at = (loose_vec *)(row + j);
        *at = choose(first_lanes(to - j) & ~first_lanes(from - j), *at, nothing);
        best = choose(*at > best, *at, best);
    }
    float largest = max_lanes(best);
#pragma omp simd
    for (int64_t j = 0; j < width; j++) row[j] = exp_nonpositive(row[j] - largest);
    for (int64_t j = 0; j < width; j += LANES) {
        loose_vec *at = (loose_vec *)(row + j);
        *at = choose(first_lanes(to - j) & ~first_lanes(from - j), *at, (vec){0});
        total += *at;
    }
    return 1.0f / sum_lanes(total);
}

static int64_t tile_tokens(Shape s) { return MAX(1, ROWS / (s.heads / s.kv_heads)); }

/* Floats that one thread needs, where no sequence is longer than `longest`. */
static int64_t attend_work(Shape s, int64_t longest) {
    int64_t rows = tile_tokens(s) * (s.heads / s.kv_heads);
    return rows * (2 * strips(s.size) * NR + CEIL_DIV(longest, NR) * NR + NR);
}

/* Queries of `tokens` tokens, at places start.. of their sequence, with key/value head g. q is the first token's row of
 * the projection (stride ldq), mixed its row of results (stride ldm). `end`: tokens in the sequence now. */
static void attend(Shape s, int g, int64_t tokens, int64_t start, int64_t end, const float *q, int64_t ldq,
                   const float *keys, const float *values, float *mixed, int64_t ldm, float *work) {
    int group = s.heads / s.kv_heads, D = s.size;
    int64_t rows = tokens * group, used = s.causal ? start + tokens : end;
    int64_t base = s.causal && s.window ? MAX(0, start - s.window + 1) / NR * NR : 0;
    int64_t width = CEIL_DIV(used - base, NR) * NR, wide = strips(D) * NR;
    float *queries = work, *out = queries + rows * wide, *scores = out + rows * wide;
    float scale = 1.0f / __builtin_sqrtf((float)D);
    for (int64_t r = 0; r < rows; r++) {
        const float *from = q + r / group * ldq + (g * group + r % group) * D;
        for (int d = 0; d < D; d++) queries[r * D + d] = from[d] * scale;
    }
    for (int64_t j = 0; j < width; j += NR)
        panel(rows, D, queries, D, 1, keys + (base + j) * D, scores + j, width, NR, 0);
    float inverse[rows];
    for (int64_t r = 0; r < rows; r++) {
        int64_t place = start + r / group, to = s.causal ? place + 1 : end;
        int64_t from = s.causal && s.window ? MAX(0, place - s.window + 1) : 0;
        inverse[r] = softmax_part(scores + r * width, width, from - base, to - base);
    }
    for (int64_t p = 0; p < strips(D); p++)
        panel(rows, used - base, scores, width, 1, values + (p * s.capacity + base) * NR, out + p * NR, wide, NR, 0);
    for (int64_t r = 0; r < rows; r++) {
        float *to = mixed + r / group * ldm + (g * group + r % group) * D;
        for (int d = 0; d < D; d++) to[d] = out[r * wide + d] * inverse[r];
    }
}

#endif
