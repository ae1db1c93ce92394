/* Weight matrices in 8 or 4 bits, multiplied with activations that are rounded to 8 bits as they come.
 *
 * A matrix W (N x K) is cut in panels of PANEL output rows and blocks of BLOCK inputs. Each row of a block has a scale
 * (and with 4 bits a minimum), as float16. In memory the bytes lie in the order in which the kernel reads them: four
 * inputs of each row side by side, so that one instruction multiplies them with the same four activations broadcast,
 * and a panel's sums come out as vectors over rows that never need adding up across lanes.
 *
 *   8 bits: w = scale * q,            q in -127..127     [input / 4][row][input % 4], then scales[row]
 *   4 bits: w = scale * q + minimum,  q in 0..15         [input / 8][row][input % 4], low half the first four inputs of
 *                                                        eight and high half the last; then scales[row], minima[row]
 *
 * Sums within a block are exact whole numbers and blocks are added in order, so an output does not depend on how many
 * tokens are multiplied together. */
#ifndef SCRATCHLM_QUANTISED_H
#define SCRATCHLM_QUANTISED_H

#include "vector.h"

#if defined(__AVX2__) && defined(__F16C__)
#include <immintrin.h>
#endif

/* INT8_SHORT: the bytes of INT8, with activations in 7 bits, which spares an instruction in four where there are no
 * BYTE_DOTS: for encoders, whose vectors bear it and whose time goes into products of many tokens. */
enum { FLOAT32, INT8, INT4, INT8_SHORT };
#define PANEL 8
#define BLOCK 32

/* TOGETHER: tokens multiplied with a block of weights while it lies in registers; WIDE: panels in a vector. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__F16C__)
#define BYTE_DOTS 512
#define TOGETHER 8
#define WIDE 2
#elif defined(__AVXVNNI__) && defined(__F16C__)
#define BYTE_DOTS 256
#define TOGETHER 4
#define WIDE 1
#else
#define BYTE_DOTS 0
#define TOGETHER 4
#define WIDE 1
#endif

#define BYTES8 (PANEL * BLOCK + 2 * PANEL)
#define BYTES4 (PANEL * BLOCK / 2 + 4 * PANEL)

typedef uint16_t half;

INLINE float from_half(half h) {
#if defined(__F16C__)
    return _cvtsh_ss(h);
#else
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 1023u, bits;
    if (exponent == 0) {
        float small = (float)fraction * 0x1p-24f;
        return sign ? -small : small;
    }
    bits = exponent == 31 ? sign | 0x7f800000u | fraction << 13 : sign | (exponent + 112) << 23 | fraction << 13;
    float value;
    memcpy(&value, &bits, 4);
    return value;
#endif
}

/* The nearest float16, ties to even; too large becomes infinite. */
INLINE half to_half(float value) {
#if defined(__F16C__)
    return (half)_cvtss_sh(value, 0);
#else
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t sign = bits >> 16 & 0x8000u;
    float size = value < 0 ? -value : value;
    if (!(size < 65520.0f)) return (half)(sign | (size == size ? 0x7c00u : 0x7e00u));
    if (size < 0x1p-14f) return (half)(sign | (uint32_t)(int32_t)__builtin_rintf(size * 0x1p24f));
    bits &= 0x7fffffffu;
    bits += 0xfffu + (bits >> 13 & 1u);
    return (half)(sign | ((bits >> 13) - (112u << 10)));
#endif
}

/* One token's activations in 8 bits: x = scale * q in each block. */
typedef struct {
    int8_t *q;    /* (blocks * BLOCK) */
    float *scale; /* (blocks) */
    float *sum;   /* (blocks): scale times the sum of q, which the minima are multiplied with */
    int32_t *off; /* (blocks): -128 times the sum of q, by which products with 128 + w are off */
} Activations;

static int64_t activation_bytes(int64_t K) { return CEIL_DIV(CEIL_DIV(K, BLOCK) * (BLOCK + 12), 64) * 64; }

static Activations activations_at(char *memory, int64_t K, int64_t token) {
    int64_t blocks = CEIL_DIV(K, BLOCK);
    char *base = memory + token * activation_bytes(K);
    char *scale = base + blocks * BLOCK, *sum = scale + blocks * 4, *off = sum + blocks * 4;
    Activations a = {(int8_t *)base, (float *)scale, (float *)sum, (int32_t *)off};
    return a;
}

static void round_activations(int kind, const float *x, int64_t K, Activations a) {
    const float limit = kind == INT8_SHORT ? 63.0f : 127.0f;
    for (int64_t b = 0; b * BLOCK < K; b++) {
        float padded[BLOCK] = {0}, largest = 0;
        int64_t n = MIN(K - b * BLOCK, BLOCK);
        const float *block = n == BLOCK ? x + b * BLOCK : memcpy(padded, x + b * BLOCK, (size_t)n * sizeof(float));
#pragma omp simd reduction(max : largest)
        for (int i = 0; i < BLOCK; i++) {
            float size = __builtin_fabsf(block[i]);
            largest = size > largest ? size : largest;
        }
        float scale = largest / limit, inverse = largest > 0 ? limit / largest : 0;
        int32_t rounded[BLOCK], sum = 0;
        int8_t *q = a.q + b * BLOCK;
        /* In one loop they would go through memory in halves, which takes twice the time. */
        for (int i = 0; i < BLOCK; i++) rounded[i] = (int32_t)__builtin_rintf(block[i] * inverse);
        for (int i = 0; i < BLOCK; i++) q[i] = (int8_t)rounded[i];
#pragma omp simd reduction(+ : sum)
        for (int i = 0; i < BLOCK; i++) sum += rounded[i];
        a.scale[b] = scale;
        a.sum[b] = scale * (float)sum;
        a.off[b] = -128 * sum;
    }
}

#if BYTE_DOTS
#include "byte_dots.h"
#elif defined(__AVX2__) && defined(__F16C__)
/* Keeps the compiler from collecting products and adding them up later, for which there are no registers. */
#define IN_ORDER(v) __asm__("" : "+x"(v))

INLINE __m256i four_activations(const int8_t *q) {
    int32_t four;
    memcpy(&four, q, 4);
    return _mm256_set1_epi32(four);
}

/* Panels p of `tokens` tokens: y[token][PANEL] over all blocks. `brief`: activations have 7 bits; weights as 128 + q then
 * fit an unsigned factor, and no sum of two products leaves 16 bits. Otherwise the weights' signs go over to x. */
INLINE void panel8(const int brief, const int tokens, int64_t blocks, const uint8_t *w, int64_t apart,
                   const Activations *x, __m256 *y) {
    (void)apart;
    const __m256i ones = _mm256_set1_epi16(1), flip = _mm256_set1_epi8(-128);
    for (int t = 0; t < tokens; t++) y[t] = _mm256_setzero_ps();
    for (int64_t b = 0; b < blocks; b++, w += BYTES8) {
        __m256i sum[TOGETHER];
        for (int t = 0; t < tokens; t++) sum[t] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int j = 0; j < BLOCK / 4; j++) {
            __m256i weights = _mm256_loadu_si256((const __m256i *)(w + 32 * j));
            __m256i factor = brief ? _mm256_xor_si256(weights, flip) : _mm256_abs_epi8(weights);
#pragma GCC unroll 4
            for (int t = 0; t < tokens; t++) {
                __m256i four = four_activations(x[t].q + b * BLOCK + 4 * j);
                if (!brief) four = _mm256_sign_epi8(four, weights);
                sum[t] = _mm256_add_epi32(sum[t], _mm256_madd_epi16(_mm256_maddubs_epi16(factor, four), ones));
                IN_ORDER(sum[t]);
            }
        }
        __m256 scales = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(w + PANEL * BLOCK)));
#pragma GCC unroll 4
        for (int t = 0; t < tokens; t++) {
            __m256 whole = _mm256_cvtepi32_ps(sum[t]), scale = _mm256_set1_ps(x[t].scale[b]);
            if (brief)
                y[t] = _mm256_fmadd_ps(scales, _mm256_fmadd_ps(scale, whole, _mm256_set1_ps(-128.0f * x[t].sum[b])), y[t]);
            else
                y[t] = _mm256_fmadd_ps(_mm256_mul_ps(scales, scale), whole, y[t]);
        }
    }
}

INLINE void panel4(const int tokens, int64_t blocks, const uint8_t *w, int64_t apart, const Activations *x, __m256 *y) {
    (void)apart;
    const __m256i ones = _mm256_set1_epi16(1), low = _mm256_set1_epi8(15);
    for (int t = 0; t < tokens; t++) y[t] = _mm256_setzero_ps();
    for (int64_t b = 0; b < blocks; b++, w += BYTES4) {
        __m256i sum[TOGETHER]; /* eight products of at most 2 * 15 * 127 each: 16 bits hold their sum */
        for (int t = 0; t < tokens; t++) sum[t] = _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int j = 0; j < BLOCK / 8; j++) {
            __m256i both = _mm256_loadu_si256((const __m256i *)(w + 32 * j));
            __m256i first = _mm256_and_si256(both, low), last = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
#pragma GCC unroll 4
            for (int t = 0; t < tokens; t++) {
                const int8_t *q = x[t].q + b * BLOCK + 8 * j;
                sum[t] = _mm256_add_epi16(sum[t], _mm256_maddubs_epi16(first, four_activations(q)));
                sum[t] = _mm256_add_epi16(sum[t], _mm256_maddubs_epi16(last, four_activations(q + 4)));
                IN_ORDER(sum[t]);
            }
        }
        __m256 scales = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(w + PANEL * BLOCK / 2)));
        __m256 minima = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(w + PANEL * BLOCK / 2 + 2 * PANEL)));
#pragma GCC unroll 4
        for (int t = 0; t < tokens; t++) {
            __m256 whole = _mm256_cvtepi32_ps(_mm256_madd_epi16(sum[t], ones));
            y[t] = _mm256_fmadd_ps(_mm256_mul_ps(scales, _mm256_set1_ps(x[t].scale[b])), whole, y[t]);
            y[t] = _mm256_fmadd_ps(minima, _mm256_set1_ps(x[t].sum[b]), y[t]);
        }
    }
}

INLINE void store_panel(float *out, __m256 sums, int64_t rows) {
    if (rows >= PANEL) {
        _mm256_storeu_ps(out, sums);
        return;
    }
    float all[PANEL];
    _mm256_storeu_ps(all, sums);
    memcpy(out, all, (size_t)rows * sizeof(float));
}
typedef __m256 sums;
#else
typedef struct {
    float row[PANEL];
} sums;

INLINE void panel8(const int brief, const int tokens, int64_t blocks, const uint8_t *w, int64_t apart,
                   const Activations *x, sums *y) {
    (void)brief, (void)apart; /* whole numbers of 32 bits hold either */
    for (int t = 0; t < tokens; t++) memset(&y[t], 0, sizeof(sums));
    for (int64_t b = 0; b < blocks; b++, w += BYTES8)
        for (int t = 0; t < tokens; t++) {
            int32_t sum[PANEL] = {0};
            const int8_t *q = x[t].q + b * BLOCK, *v = (const int8_t *)w;
            for (int j = 0; j < BLOCK / 4; j++)
                for (int r = 0; r < PANEL; r++)
                    for (int i = 0; i < 4; i++) sum[r] += (int32_t)v[32 * j + 4 * r + i] * q[4 * j + i];
            const half *scales = (const half *)(w + PANEL * BLOCK);
            for (int r = 0; r < PANEL; r++) y[t].row[r] += from_half(scales[r]) * x[t].scale[b] * (float)sum[r];
        }
}

INLINE void panel4(const int tokens, int64_t blocks, const uint8_t *w, int64_t apart, const Activations *x, sums *y) {
    (void)apart;
    for (int t = 0; t < tokens; t++) memset(&y[t], 0, sizeof(sums));
    for (int64_t b = 0; b < blocks; b++, w += BYTES4)
        for (int t = 0; t < tokens; t++) {
            int32_t sum[PANEL] = {0};
            const int8_t *q = x[t].q + b * BLOCK;
            for (int j = 0; j < BLOCK / 8; j++)
                for (int r = 0; r < PANEL; r++)
                    for (int i = 0; i < 4; i++) {
                        uint8_t both = w[32 * j + 4 * r + i];
                        sum[r] += (both & 15) * q[8 * j + i] + (both >> 4) * q[8 * j + 4 + i];
                    }
            const half *scales = (const half *)(w + PANEL * BLOCK / 2), *minima = scales + PANEL;
            for (int r = 0; r < PANEL; r++) {
                y[t].row[r] += from_half(scales[r]) * x[t].scale[b] * (float)sum[r];
                y[t].row[r] += from_half(minima[r]) * x[t].sum[b];
            }
        }
}

INLINE void store_panel(float *out, sums s, int64_t rows) {
    memcpy(out, s.row, (size_t)MIN(rows, PANEL) * sizeof(float));
}
#endif

static int64_t panel_bytes(int kind, int64_t K) { return CEIL_DIV(K, BLOCK) * (kind == INT4 ? BYTES4 : BYTES8); }

/* A panel, or the two that are in a vector: the second `apart` bytes after the first (none for the first once more). */
INLINE void one_panel(int kind, const int tokens, int64_t blocks, const uint8_t *w, int64_t apart, const Activations *x,
                      float *y, int64_t ld, int64_t rows) {
    sums s[TOGETHER];
    if (kind == INT4)
        panel4(tokens, blocks, w, apart, x, s);
    else if (kind == INT8_SHORT && !BYTE_DOTS)
        panel8(1, tokens, blocks, w, apart, x, s);
    else
        panel8(0, tokens, blocks, w, apart, x, s);
    for (int t = 0; t < tokens; t++) store_panel(y + t * ld, s[t], rows);
}

#define NEAR (192 * 1024) /* bytes of activations that stay in a core's second cache while panels pass */

/* y (tokens, ld)[:, 8 first .. 8 last] = x W^T for panels first to last - 1 of a matrix with N rows: for as many tokens
 * as fit the second cache all panels, each of which stays in the first while the tokens pass. */
static void multiply_panels(int kind, int64_t tokens, int64_t N, int64_t K, const uint8_t *w, char *x, float *y, int64_t ld,
                            int64_t first, int64_t last) {
    int64_t blocks = CEIL_DIV(K, BLOCK), bytes = panel_bytes(kind, K);
    int64_t tile = MAX(NEAR / activation_bytes(K) / TOGETHER, 1) * TOGETHER;
    for (int64_t from = 0; from < tokens; from += tile)
        for (int64_t p = first; p < last; p += WIDE) {
            int64_t t = from, end = MIN(from + tile, tokens), panels = MIN(last - p, WIDE);
            int64_t rows = MIN(N - p * PANEL, panels * PANEL), apart = (panels - 1) * bytes;
            Activations a[TOGETHER];
#define MULTIPLY(count)                                                                                   \
    for (; TOGETHER >= count && t + count <= end; t += count) {                                           \
        for (int i = 0; i < count; i++) a[i] = activations_at(x, K, t + i);                               \
        one_panel(kind, count, blocks, w + p * bytes, apart, a, y + t * ld + p * PANEL, ld, rows);        \
    }
            MULTIPLY(8)
            MULTIPLY(4)
            MULTIPLY(2)
            MULTIPLY(1)
#undef MULTIPLY
        }
}

/* Panels that a thread takes at a time: a whole number of vectors, and enough pieces for the threads to end together. */
static int64_t panels_at_once(int64_t panels, int64_t threads, int64_t most) {
    return CEIL_DIV(MAX(1, MIN(most, panels / (4 * threads))), WIDE) * WIDE;
}

/* Row n of a packed matrix as float32. */
static void unpack_row(int kind, int64_t K, const uint8_t *w, int64_t n, float *out) {
    const uint8_t *block = w + n / PANEL * panel_bytes(kind, K);
    int r = (int)(n % PANEL);
    for (int64_t k = 0; k < K; k++) {
        int i = (int)(k % BLOCK);
        if (i == 0 && k) block += kind == INT4 ? BYTES4 : BYTES8;
        if (kind != INT4) {
            half scale;
            memcpy(&scale, block + PANEL * BLOCK + 2 * r, 2);
            out[k] = from_half(scale) * (float)(int8_t)block[32 * (i / 4) + 4 * r + i % 4];
        } else {
            half scale, minimum;
            memcpy(&scale, block + PANEL * BLOCK / 2 + 2 * r, 2);
            memcpy(&minimum, block + PANEL * BLOCK / 2 + 2 * PANEL + 2 * r, 2);
            uint8_t both = block[32 * (i / 8) + 4 * r + i % 4];
            out[k] = from_half(scale) * (float)(i % 8 < 4 ? both & 15 : both >> 4) + from_half(minimum);
        }
    }
}

#endif
