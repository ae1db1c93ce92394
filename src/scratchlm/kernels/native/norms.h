/* Norms of rows of tokens, forward and backward, and the sums over tokens that their gradients need. */
#ifndef SCRATCHLM_NORMS_H
#define SCRATCHLM_NORMS_H

#include "vector.h"

/* Each chunk of ROWS tokens leaves its column sums in its own row of `partial`; here they are added up in order. To be
 * called by all threads of a team after a barrier. */
static void sum_chunks(int64_t chunks, int64_t stride, int64_t columns, const float *partial, float *total) {
    if (!total) return;
#pragma omp for schedule(static)
    for (int64_t first = 0; first < columns; first += 64) {
        int64_t n = MIN(columns - first, 64);
        memset(total + first, 0, (size_t)n * sizeof(float));
        for (int64_t c = 0; c < chunks; c++) add_row(n, partial + c * stride + first, total + first);
    }
}

INLINE void apply_norm(int64_t C, const float *restrict x, const float *weight, const float *bias, float mean,
                       float rstd, float *restrict y) {
    if (bias)
#pragma omp simd
        for (int64_t j = 0; j < C; j++) y[j] = (x[j] - mean) * rstd * weight[j] + bias[j];
    else
#pragma omp simd
        for (int64_t j = 0; j < C; j++) y[j] = (x[j] - mean) * rstd * weight[j];
}

/* y = (x - mean) / sqrt(variance + eps) * weight + bias; `center` 0 leaves the mean alone (RMSNorm). */
INLINE void norm_row(int64_t C, const float *restrict x, const float *weight, const float *bias, float eps, int64_t center,
                     float *restrict y, float *mean, float *rstd) {
    float sum = 0, squares = 0;
    if (center)
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < C; j++) sum += x[j];
    float m = sum / (float)C;
#pragma omp simd reduction(+ : squares)
    for (int64_t j = 0; j < C; j++) squares += (x[j] - m) * (x[j] - m);
    *mean = m;
    *rstd = 1.0f / __builtin_sqrtf(squares / (float)C + eps);
    apply_norm(C, x, weight, bias, m, *rstd, y);
}

/* dx = the norm's gradient (+ base); dweight and dbias are added to. */
INLINE void norm_row_backward(int64_t C, const float *restrict x, const float *restrict dy, const float *weight,
                              float mean, float rstd, int64_t center, const float *base, float *restrict dx,
                              float *restrict dweight, float *restrict dbias) {
    float sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t j = 0; j < C; j++) {
        float normed = (x[j] - mean) * rstd, g = dy[j] * weight[j];
        sum += g;
        dot += g * normed;
        dweight[j] += dy[j] * normed;
        dbias[j] += dy[j];
    }
    sum = center ? sum / (float)C : 0;
    dot /= (float)C;
    if (base)
#pragma omp simd
        for (int64_t j = 0; j < C; j++)
            dx[j] = base[j] + rstd * (dy[j] * weight[j] - sum - (x[j] - mean) * rstd * dot);
    else
#pragma omp simd
        for (int64_t j = 0; j < C; j++) dx[j] = rstd * (dy[j] * weight[j] - sum - (x[j] - mean) * rstd * dot);
}

/* The norms of `rows` tokens from m0 on, side by side in `normed`. */
static void norm_chunk(int64_t C, int64_t m0, int64_t rows, const float *x, const float *weight, const float *bias,
                       float eps, int64_t center, float *normed, float *statistics) {
    for (int64_t m = m0; m < m0 + rows; m++)
        norm_row(C, x + m * C, weight, bias, eps, center, normed + (m - m0) * C, statistics + 2 * m,
                 statistics + 2 * m + 1);
}

#endif
