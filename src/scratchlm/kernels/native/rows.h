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

/* Outputs o to o + 3 of every row: four rows of W at a time, each read once for all rows of x. */
static void dot_four(const float *weight, const float *x, int64_t ldx, float *y, int64_t ldy, int64_t rows, int64_t in,
                     int64_t o, int64_t outputs) {
    const float *w[4];
    for (int i = 0; i < 4; i++) w[i] = weight + MIN(o + i, outputs - 1) * in;
    for (int64_t r = 0; r < rows; r++) {
        const float *xr = x + r * ldx;
        vec s[4] = {{0}, {0}, {0}, {0}};
        int64_t k = 0;
        for (; k + LANES <= in; k += LANES) {
            vec part = *(const loose_vec *)(xr + k);
            for (int i = 0; i < 4; i++) s[i] += *(const loose_vec *)(w[i] + k) * part;
        }
        for (int i = 0; i < 4 && o + i < outputs; i++) {
            float total = sum_lanes(s[i]);
            for (int64_t j = k; j < in; j++) total += w[i][j] * xr[j];
            y[r * ldy + o + i] = total;
        }
    }
}

#endif
