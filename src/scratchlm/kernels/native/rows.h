/* What a forward pass does to single rows: norms, activations, rotary positions, and dot products with weights. */
#ifndef SCRATCHLM_ROWS_H
#define SCRATCHLM_ROWS_H

#include <math.h>

#include "vector.h"

enum { RELU, GELU, GELU_TANH, SWIGLU, RELU2 };

INLINE float sigmoid(float x) {
    float e = exp_nonpositive(x < 0 ? x : -x);
    return (x < 0 ? e : 1.0f) / (1.0f + e);
}

/* LayerNorm (Ba et al. 2016, eq. 4) or RMSNorm (Zhang and Sennrich 2019, eq. 4) of one row. y may be x. */
static void norm(const float *x, const float *weight, const float *bias, float *y, int n, float eps, int rms) {
    float mean = 0;
    vec s = {0};
    int i = 0;
    if (!rms) {
        for (; i + LANES <= n; i += LANES) s += *(const loose_vec *)(x + i);
        mean = sum_lanes(s);
        for (; i < n; i++) mean += x[i];
        mean /= (float)n;
    }
    s = (vec){0};
    for (i = 0; i + LANES <= n; i += LANES) {
        vec d = *(const loose_vec *)(x + i) - mean;
        s += d * d;
    }
    float square = sum_lanes(s);
    for (; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf(square / (float)n + eps);
    if (bias)
#pragma omp simd
        for (int j = 0; j < n; j++) y[j] = (x[j] - mean) * scale * weight[j] + bias[j];
    else
#pragma omp simd
        for (int j = 0; j < n; j++) y[j] = (x[j] - mean) * scale * weight[j];
}

/* h, one row after `up`, -> (F) in place; for SWIGLU h is (2F), gate first. */
static void activate(int activation, int n, float *h) {
    switch (activation) {
    case RELU:
#pragma omp simd
        for (int i = 0; i < n; i++) h[i] = h[i] > 0 ? h[i] : 0;
        break;
    case RELU2:
#pragma omp simd
        for (int i = 0; i < n; i++) h[i] = h[i] > 0 ? h[i] * h[i] : 0;
        break;
    case GELU:
#pragma omp simd
        for (int i = 0; i < n; i++) {
            float slope;
            h[i] = gelu_and_slope(h[i], &slope);
        }
        break;
    case GELU_TANH: /* 0.5 (1 + tanh u) is the sigmoid of 2u */
#pragma omp simd
        for (int i = 0; i < n; i++) h[i] *= sigmoid(1.595769122f * (h[i] + 0.044715f * h[i] * h[i] * h[i]));
        break;
    case SWIGLU:
#pragma omp simd
        for (int i = 0; i < n; i++) h[i] = h[i] * sigmoid(h[i]) * h[n + i];
        break;
    }
}

/* Turn each pair (i, i + D/2) of a head (Su et al. 2021). */
static void rotate(float *x, const float *cos, const float *sin, int size) {
    int half_size = size / 2;
    for (int i = 0; i < half_size; i++) {
        float first = x[i], second = x[i + half_size];
        x[i] = first * cos[i] - second * sin[i];
        x[i + half_size] = second * cos[i] + first * sin[i];
    }
}

#define DOTS 4                     /* rows of a weight at a time */
#define DOT_ROWS (LANES / DOTS)    /* tokens at a time, so that the sums of a tile are LANES vectors */
#define DOT_BLOCK (4 * DOTS)       /* outputs for which some tokens stay in the nearest cache */

/* Outputs o to o + DOTS - 1 of some rows of x. Each sum takes its terms in the same order, however many rows there are. */
INLINE void dot_tile(const int rows, const float *const *w, const float *x, int64_t ldx, float *y, int64_t ldy,
                     int64_t in, int64_t outputs) {
    vec s[DOT_ROWS * DOTS];
    for (int i = 0; i < rows * DOTS; i++) s[i] = (vec){0};
    int64_t k = 0;
    for (; k + LANES <= in; k += LANES) {
        vec part[DOTS];
        for (int i = 0; i < DOTS; i++) part[i] = *(const loose_vec *)(w[i] + k);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            vec xr = *(const loose_vec *)(x + r * ldx + k);
            for (int i = 0; i < DOTS; i++) s[r * DOTS + i] += part[i] * xr;
        }
    }
    float totals[DOT_ROWS * DOTS];
    if (rows == DOT_ROWS)
        *(loose_vec *)totals = sum_each(s);
    else
        for (int i = 0; i < rows * DOTS; i++) totals[i] = sum_lanes(s[i]);
    for (int r = 0; r < rows; r++)
        for (int64_t i = 0; i < outputs; i++) {
            float total = totals[r * DOTS + i];
            for (int64_t j = k; j < in; j++) total += w[i][j] * x[r * ldx + j];
            y[r * ldy + i] = total;
        }
}

/* Apart, so that nothing else lies in the registers. */
static __attribute__((noinline)) void whole_tile(const float *const *w, const float *x, int64_t ldx, float *y,
                                                 int64_t ldy, int64_t in, int64_t outputs) {
    dot_tile(DOT_ROWS, w, x, ldx, y, ldy, in, outputs);
}

/* Outputs o to `last` of every row, as dot products: each weight is read from memory once for all rows of x. Meanwhile
 * the weights of as many outputs more are fetched (there are `outputs` in all). */
static void dot_outputs(const float *weight, const float *x, int64_t ldx, float *y, int64_t ldy, int64_t rows,
                        int64_t in, int64_t o, int64_t last, int64_t outputs) {
    const float *next = weight + last * in;
    int64_t ahead = rows < DOT_ROWS ? 0 : MIN(last - o, outputs - last) * in;
    int64_t groups = CEIL_DIV(last - o, DOTS), done = 0, fetched = 0;
    for (int64_t r = 0; r < rows;) {
        int whole = rows - r >= DOT_ROWS;
        for (int64_t p = o; p < last; p += DOTS) {
            const float *w[DOTS];
            for (int i = 0; i < DOTS; i++) w[i] = weight + MIN(p + i, last - 1) * in;
            if (whole)
                whole_tile(w, x + r * ldx, ldx, y + r * ldy + p, ldy, in, MIN(DOTS, last - p));
            else
                dot_tile(1, w, x + r * ldx, ldx, y + r * ldy + p, ldy, in, MIN(DOTS, last - p));
            done += whole ? DOT_ROWS : 1;
            for (int64_t until = ahead * done / (rows * groups); fetched < until; fetched += 16)
                __builtin_prefetch(next + fetched, 0, 2);
        }
        r += whole ? DOT_ROWS : 1;
    }
}

#endif
