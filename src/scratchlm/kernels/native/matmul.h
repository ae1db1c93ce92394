/* Matrix products of small and middling sizes, at the speed of the processor's multiply-add units.
 *
 * The plan is Goto & van de Geijn's ("Anatomy of high-performance matrix multiplication", 2008): a tile of MR x NR
 * results stays in registers while a packed panel of B (NR columns, KC rows) streams from the nearest cache. Having
 * the product in our own hands lets norms, biases, GELU, dropout and residuals work on rows that are still in cache. */
#ifndef SCRATCHLM_MATMUL_H
#define SCRATCHLM_MATMUL_H

#include "vector.h"

#if defined(__AVX512F__) || defined(__aarch64__)
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
    for (; r + 2 <= rows; r += 2) tile(2, K, a + r * ar, ar, ak, b, c + r * ldc, ldc, cols, add);
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

/* Two matrices with a row for each of T tokens, kept for the product over all tokens that a weight's gradient is, in
 * the order in which that product reads them: blocks of KC tokens, in each the columns in groups (NR wide for the
 * layer's input, MR wide for its output's gradient), in each [token][width]. One row of padding after each group keeps
 * groups from falling on the same few places of the cache. */
static int64_t group_stride(int64_t T, int width) { return (MIN(T, KC) + 1) * width; }

static int64_t grouped_floats(int64_t T, int64_t columns, int width) {
    return CEIL_DIV(T, KC) * CEIL_DIV(columns, width) * group_stride(T, width);
}

/* Put token t's row into its place. */
INLINE void keep_row(const int width, float *groups, int64_t T, int64_t columns, int64_t t, const float *restrict row) {
    int64_t stride = group_stride(T, width);
    float *restrict to = groups + t / KC * CEIL_DIV(columns, width) * stride + t % KC * width;
    for (; columns >= width; columns -= width, row += width, to += stride)
        for (int j = 0; j < width; j++) to[j] = row[j];
    for (int64_t j = 0; j < columns; j++) to[j] = row[j];
}

#define LARGEST_BLOCK 256 /* columns of either side, so that a block of C and its part of A stay in the second cache */

/* Into how many parts to cut `columns`: the same number for every thread, none larger than a block. */
static int64_t share(int64_t columns, int64_t group, int64_t threads) {
    return MIN(CEIL_DIV(columns, group), threads * CEIL_DIV(columns, threads * LARGEST_BLOCK));
}

/* A weight's gradient, C (M x N) = A^T B, A (T x M) in groups of MR columns and B (T x N) in groups of NR. The longer
 * side of C is shared out among the threads. Each element sums over the tokens in order, wherever it is computed, so
 * the result does not depend on the number of threads. To be called by all threads of a team; they do not wait for one
 * another at the end. */
static void weight_gradient(int64_t M, int64_t N, int64_t T, const float *a, const float *b, float *c, int64_t threads) {
    int64_t strips = CEIL_DIV(M, MR), panels = CEIL_DIV(N, NR), wide = N >= M;
    int64_t a_stride = group_stride(T, MR), b_stride = group_stride(T, NR);
    int64_t across = wide ? share(N, NR, threads) : CEIL_DIV(N, LARGEST_BLOCK);
    int64_t down = wide ? CEIL_DIV(M, LARGEST_BLOCK) : share(M, MR, threads);
#pragma omp for schedule(dynamic) nowait
    for (int64_t job = 0; job < down * across; job++) {
        int64_t m0 = job / across * strips / down * MR, m1 = MIN(M, (job / across + 1) * strips / down * MR);
        int64_t n0 = job % across * panels / across * NR, n1 = MIN(N, (job % across + 1) * panels / across * NR);
        for (int64_t t = 0; t < T; t += KC)
            for (int64_t n = n0; n < n1; n += NR)
                for (int64_t m = m0; m < m1; m += MR)
                    panel(MIN(m1 - m, MR), MIN(T - t, KC), a + (t / KC * strips + m / MR) * a_stride, 1, MR,
                          b + (t / KC * panels + n / NR) * b_stride, c + m * N + n, N, MIN(n1 - n, NR), t > 0);
    }
}

#endif
