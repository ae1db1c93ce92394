/* Matrix products of small and middling sizes, at the speed of the processor's multiply-add units.
 *
 * The plan is Goto & van de Geijn's ("Anatomy of high-performance matrix multiplication", 2008): a tile of MR x NR
 * results stays in registers while a packed panel of B (NR columns, KC rows) streams from the nearest cache. Having
 * the product in our own hands lets norms, biases, GELU, dropout and residuals work on rows that are still in cache. */
#ifndef SCRATCHLM_MATMUL_H
#define SCRATCHLM_MATMUL_H

#include "vector.h"

#if LANES == 16
#define MR 12 /* 24 of 32 registers hold results */
#else
#define MR 6 /* 12 of 16 */
#endif
#define NR (2 * LANES)
#define KC 256
#define ROWS 24 /* rows of A worked on at a time: a multiple of every MR */

/* C[rows][cols] (+)= sum over k of A[r*ar + k*ak] * B[k][NR]. */
INLINE void tile(const int rows, int64_t K, const float *restrict a, int64_t ar, int64_t ak, const float *restrict b,
                 float *restrict c, int64_t ldc, int64_t cols, int add) {
    vec sum[MR][2];
    for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = (vec){0};
    for (int64_t k = 0; k < K; k++) {
        vec b0 = *(const loose_vec *)(b + k * NR), b1 = *(const loose_vec *)(b + k * NR + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            float factor = a[r * ar + k * ak];
            sum[r][0] += factor * b0;
            sum[r][1] += factor * b1;
        }
    }
    for (int r = 0; r < rows; r++) {
        float *row = c + r * ldc;
        if (cols == NR) {
            loose_vec *out = (loose_vec *)row;
            if (add) sum[r][0] += out[0], sum[r][1] += out[1];
            out[0] = sum[r][0];
            out[1] = sum[r][1];
        } else {
            for (int64_t j = 0; j < cols; j++) row[j] = (add ? row[j] : 0.0f) + sum[r][j / LANES][j % LANES];
        }
    }
}

/* Any number of rows against one panel. */
INLINE void panel(int64_t rows, int64_t K, const float *a, int64_t ar, int64_t ak, const float *b, float *c,
                  int64_t ldc, int64_t cols, int add) {
    int64_t r = 0;
    for (; r + MR <= rows; r += MR) tile(MR, K, a + r * ar, ar, ak, b, c + r * ldc, ldc, cols, add);
    for (; r + 4 <= rows; r += 4) tile(4, K, a + r * ar, ar, ak, b, c + r * ldc, ldc, cols, add);
    for (; r < rows; r++) tile(1, K, a + r * ar, ar, ak, b, c + r * ldc, ldc, cols, add);
}

/* Panel p of a matrix with element (k, n) at w[k*wk + n*wn], as [k][NR], zeros beyond its last column. */
static void pack_panel(const float *w, int64_t wk, int64_t wn, int64_t K, int64_t cols, float *out) {
    if (wn == 1 && cols >= NR) {
        for (int64_t k = 0; k < K; k++) {
            const loose_vec *from = (const loose_vec *)(w + k * wk);
            loose_vec *to = (loose_vec *)(out + k * NR);
            to[0] = from[0];
            to[1] = from[1];
        }
        return;
    }
    for (int64_t k = 0; k < K; k++)
        for (int64_t n = 0; n < NR; n++) out[k * NR + n] = n < cols ? w[k * wk + n * wn] : 0.0f;
}

static int64_t packed_floats(int64_t N, int64_t K) { return CEIL_DIV(N, NR) * NR * K; }

/* The whole of B (K x N), block by block of KC rows, panel by panel. To be called by all threads of a team. */
static void pack(const float *w, int64_t wk, int64_t wn, int64_t N, int64_t K, float *out) {
    int64_t panels = CEIL_DIV(N, NR);
#pragma omp for schedule(static)
    for (int64_t p = 0; p < panels; p++)
        for (int64_t k = 0; k < K; k += KC) {
            int64_t depth = MIN(K - k, KC);
            pack_panel(w + k * wk + p * NR * wn, wk, wn, depth, N - p * NR, out + k * panels * NR + p * NR * depth);
        }
}

/* C (rows x N) = A (rows x K) times a packed B, in one thread. */
static __attribute__((noinline)) void multiply(int64_t rows, int64_t N, int64_t K, const float *a, int64_t lda,
                                               const float *packed, float *c, int64_t ldc) {
    int64_t panels = CEIL_DIV(N, NR);
    for (int64_t k = 0; k < K; k += KC) {
        int64_t depth = MIN(K - k, KC);
        for (int64_t p = 0; p < panels; p++)
            panel(rows, depth, a + k, lda, 1, packed + k * panels * NR + p * NR * depth, c + p * NR, ldc,
                  MIN(N - p * NR, NR), k > 0);
    }
}

/* A layer's input (T tokens x N) kept for its weight's gradient in the order in which weight_gradient reads it: blocks
 * of KC tokens, in each the panels of NR columns, in each [token][NR]. One line of padding after each panel keeps the
 * panels from falling on the same few places of the cache. */
static int64_t panel_stride(int64_t T) { return (MIN(T, KC) + 1) * NR; }

static int64_t panels_floats(int64_t T, int64_t N) { return CEIL_DIV(T, KC) * CEIL_DIV(N, NR) * panel_stride(T); }

INLINE void keep_row(float *panels, int64_t T, int64_t N, int64_t t, const float *restrict row) {
    if (!panels) return;
    int64_t stride = panel_stride(T);
    float *restrict to = panels + t / KC * CEIL_DIV(N, NR) * stride + t % KC * NR;
    for (; N >= NR; N -= NR, row += NR, to += stride) {
        ((loose_vec *)to)[0] = ((const loose_vec *)row)[0];
        ((loose_vec *)to)[1] = ((const loose_vec *)row)[1];
    }
    for (int64_t j = 0; j < N; j++) to[j] = row[j];
}

/* A weight's gradient, C (M x N) = A^T B with A (T x M) and B in panels, T being the many tokens. Each block of C is
 * one thread's own and sums over the tokens in order, so the result does not depend on the number of threads. To be
 * called by all threads of a team; they do not wait for one another at the end. */
#define BLOCK_M 96
#define BLOCK_N 128
static void weight_gradient(int64_t M, int64_t N, int64_t T, const float *a, const float *panels, float *c) {
    int64_t down = CEIL_DIV(M, BLOCK_M), across = CEIL_DIV(N, BLOCK_N), stride = panel_stride(T);
    int64_t height = CEIL_DIV(CEIL_DIV(M, down), MR) * MR, width = CEIL_DIV(CEIL_DIV(N, across), NR) * NR;
#pragma omp for schedule(dynamic) nowait
    for (int64_t job = 0; job < down * across; job++) {
        int64_t m0 = job / across * height, n0 = job % across * width;
        int64_t rows = MIN(M - m0, height), n1 = MIN(N, n0 + width);
        if (rows <= 0) continue;
        for (int64_t t = 0; t < T; t += KC)
            for (int64_t n = n0; n < n1; n += NR)
                panel(rows, MIN(T - t, KC), a + t * M + m0, 1, M, panels + (t / KC * CEIL_DIV(N, NR) + n / NR) * stride,
                      c + m0 * N + n, N, MIN(N - n, NR), t > 0);
    }
}

#endif
