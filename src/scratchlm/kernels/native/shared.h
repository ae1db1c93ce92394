/* Causal attention of texts that share beginnings, of one text and one key/value head at a time.
 *
 * A row's tokens are there once; a text is a list of L of them, of which the last `own` lie one after another and are
 * nobody else's. Its own queries look at all its keys, so that own * L pairs are computed, not L * L. What comes back to
 * its keys and values goes to a place of the text's own, and is added up in the order of the texts: the sums then do not
 * depend on which thread was where when. */
#ifndef SCRATCHLM_SHARED_H
#define SCRATCHLM_SHARED_H

#include "attention.h"

typedef struct {
    int64_t count;
    const int64_t *starts, *ends; /* (count): each text's own tokens */
    const int64_t *bounds;        /* (count + 1): where each text's tokens begin in `tokens` */
    const int64_t *tokens;
    int64_t H, G, D;
    float scale;
} Shared;

typedef struct {
    int64_t start, own, length;
    const int64_t *tokens;
} SharedText;

static SharedText shared_text(Shared s, int64_t text) {
    SharedText t = {s.starts[text], s.ends[text] - s.starts[text], s.bounds[text + 1] - s.bounds[text],
                    s.tokens + s.bounds[text]};
    return t;
}

static void longest_text(Shared s, int64_t *own, int64_t *length) {
    *own = *length = 0;
    for (int64_t i = 0; i < s.count; i++) {
        SharedText t = shared_text(s, i);
        *own = MAX(*own, t.own), *length = MAX(*length, t.length);
    }
}

static int64_t shared_forward_scratch(Shared s) {
    int64_t own, L;
    longest_text(s, &own, &L);
    int64_t Lp = whole_panels(L), Dp = whole_panels(s.D);
    return L * s.D + Lp * s.D + Dp * L + ROWS * Lp;
}

static int64_t shared_backward_scratch(Shared s) {
    int64_t own, L;
    longest_text(s, &own, &L);
    int64_t Lp = whole_panels(L), Dp = whole_panels(s.D);
    return L * s.D + 2 * Lp * s.D + Dp * L + 2 * Dp * own + 2 * own * Lp;
}

/* One head's rows of a text's tokens, one after another: (L, D). */
static void gather_rows(SharedText t, int64_t D, const float *x, int64_t ld, float *rows) {
    for (int64_t i = 0; i < t.length; i++) memcpy(rows + i * D, x + t.tokens[i] * ld, (size_t)D * sizeof(float));
}

/* Rows i .. i + rows - 1 of a text's shares of attention, of the keys from its first one on, zeros where nothing is
 * seen; returns how many columns have been written (a multiple of whole panels). */
INLINE int64_t share_rows(Shared s, SharedText t, int64_t i, int64_t rows, const float *queries, int64_t ld,
                          const float *keys, float *block, int64_t Lp) {
    int64_t before = t.length - t.own + i, width = whole_panels(before + rows);
    float inverse[ROWS];
    multiply_packed(rows, s.D, width, queries, ld, 1, keys, s.D, 0, block, Lp, 0);
    softmax_rows(rows, width, Lp, before + 1, 1, s.scale, block, inverse);
    for (int64_t r = 0; r < rows; r++) {
        float *row = block + r * Lp, factor = inverse[r];
#pragma omp simd
        for (int64_t j = 0; j < width; j++) row[j] *= factor;
    }
    return width;
}

/* out (tokens, H D), of the text's own tokens and of the heads that have key head g. */
static __attribute__((noinline)) void shared_forward_head(Shared s, SharedText t, int64_t g, const float *qkv, float *out,
                                                          float *work) {
    int64_t L = t.length, D = s.D, Lp = whole_panels(L), Dp = whole_panels(D);
    int64_t ld = (s.H + 2 * s.G) * D, ldo = s.H * D, group = s.H / s.G;
    float *rows = work, *keys = rows + L * D, *values = keys + Lp * D, *block = values + Dp * L;
    gather_rows(t, D, qkv + (s.H + g) * D, ld, rows);
    pack_all(rows, 1, D, D, L, keys);
    gather_rows(t, D, qkv + (s.H + s.G + g) * D, ld, rows);
    pack_all(rows, D, 1, L, D, values);
    for (int64_t h = g * group; h < (g + 1) * group; h++)
        for (int64_t i = 0; i < t.own; i += ROWS) {
            int64_t n = MIN(t.own - i, ROWS), token = t.start + i;
            share_rows(s, t, i, n, qkv + token * ld + h * D, ld, keys, block, Lp);
            multiply_packed(n, L - t.own + i + n, D, block, Lp, 1, values, L, 0, out + token * ldo + h * D, ldo, 0);
        }
}

/* As attention_backward_head, the shares worked out again. dqkv gets what comes back to the text's own queries, `told`
 * (2, L, D) what comes back to its keys and values. */
static __attribute__((noinline)) void shared_backward_head(Shared s, SharedText t, int64_t g, const float *qkv,
                                                           const float *dout, float *dqkv, float *told, float *work) {
    int64_t L = t.length, D = s.D, Lp = whole_panels(L), Dp = whole_panels(D), before = L - t.own;
    int64_t ld = (s.H + 2 * s.G) * D, ldo = s.H * D, group = s.H / s.G;
    float *rows = work, *keys = rows + L * D, *values = keys + Lp * D, *keys_down = values + Lp * D;
    float *queries = keys_down + Dp * L, *outer = queries + Dp * t.own, *shares = outer + Dp * t.own;
    float *ds = shares + t.own * Lp, *dkeys = told, *dvalues = told + L * D;
    gather_rows(t, D, qkv + (s.H + s.G + g) * D, ld, rows);
    pack_all(rows, 1, D, D, L, values);
    gather_rows(t, D, qkv + (s.H + g) * D, ld, rows);
    pack_all(rows, 1, D, D, L, keys);
    pack_all(rows, D, 1, L, D, keys_down);
    for (int64_t h = g * group; h < (g + 1) * group; h++) {
        const float *queries_h = qkv + t.start * ld + h * D, *dout_h = dout + t.start * ldo + h * D;
        pack_all(queries_h, ld, 1, t.own, D, queries);
        pack_all(dout_h, ldo, 1, t.own, D, outer);
        for (int64_t i = 0; i < t.own; i += ROWS) {
            int64_t n = MIN(t.own - i, ROWS);
            int64_t width = share_rows(s, t, i, n, queries_h + i * ld, ld, keys, shares + i * Lp, Lp);
            multiply_packed(n, D, width, dout_h + i * ldo, ldo, 1, values, D, 0, ds + i * Lp, Lp, 0);
            for (int64_t r = i; r < i + n; r++) {
                float *restrict p = shares + r * Lp, *restrict d = ds + r * Lp;
                vec sum = {0};
                for (int64_t j = 0; j < width; j += LANES) sum += *(loose_vec *)(d + j) * *(loose_vec *)(p + j);
                float dot = sum_lanes(sum), scale = s.scale;
#pragma omp simd
                for (int64_t j = 0; j < width; j++) d[j] = scale * p[j] * (d[j] - dot);
                memset(p + width, 0, (size_t)(Lp - width) * sizeof(float)); /* a block of keys may reach further */
                memset(d + width, 0, (size_t)(Lp - width) * sizeof(float));
            }
            multiply_packed(n, before + i + n, D, ds + i * Lp, Lp, 1, keys_down, L, 0,
                            dqkv + (t.start + i) * ld + h * D, ld, 0);
        }
        for (int64_t j = 0; j < L; j += ROWS) { /* key j is seen by the own queries `from` and later */
            int64_t n = MIN(L - j, ROWS), from = MAX(j - before, 0), add = h > g * group;
            multiply_packed(n, t.own - from, D, ds + from * Lp + j, 1, Lp, queries, t.own, from, dkeys + j * D, D, add);
            multiply_packed(n, t.own - from, D, shares + from * Lp + j, 1, Lp, outer, t.own, from, dvalues + j * D, D,
                            add);
        }
    }
}

#endif
