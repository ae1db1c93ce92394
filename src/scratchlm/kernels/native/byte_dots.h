/* panel8 and panel4 of quantised.h for processors with an instruction that multiplies bytes and adds four products to a
 * sum of 32 bits (VNNI). Such a sum is whole, so that the results are those of the other ways, bit for bit.
 *
 * With AVX-512 a vector has the rows of two panels, `apart` bytes from one another, and there are registers for twice as
 * many tokens. To be included where Activations is known. */
#ifndef SCRATCHLM_BYTE_DOTS_H
#define SCRATCHLM_BYTE_DOTS_H

#include <immintrin.h>

INLINE __m256i load_panel(const uint8_t *w) { return _mm256_loadu_si256((const __m256i *)w); }
INLINE __m128i load_halves(const uint8_t *w) { return _mm_loadu_si128((const __m128i *)w); }

#if BYTE_DOTS == 512
typedef __m512 sums;
typedef __m512i counts;
INLINE counts load_bytes(const uint8_t *w, int64_t apart) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(load_panel(w)), load_panel(w + apart), 1);
}
INLINE sums load_scales(const uint8_t *w, int64_t apart) {
    return _mm512_cvtph_ps(_mm256_set_m128i(load_halves(w + apart), load_halves(w)));
}
/* sum += the products of unsigned weights with the same four signed activations. Named outright, since compilers load
 * the activations by an instruction of its own. */
INLINE counts dot_bytes(counts sum, counts w, const int8_t *four) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*(const int8_t(*)[4])four));
    return sum;
}
#define ALL_INTEGERS _mm512_set1_epi32
#define ALL_BYTES _mm512_set1_epi8
#define ALL_FLOATS _mm512_set1_ps
#define XOR _mm512_xor_si512
#define AND _mm512_and_si512
#define SHIFT_RIGHT _mm512_srli_epi16
#define TO_FLOATS _mm512_cvtepi32_ps
#define TIMES _mm512_mul_ps
#define TIMES_PLUS _mm512_fmadd_ps
#define STORE_FLOATS _mm512_storeu_ps
#else
typedef __m256 sums;
typedef __m256i counts;
INLINE counts load_bytes(const uint8_t *w, int64_t apart) { return (void)apart, load_panel(w); }
INLINE sums load_scales(const uint8_t *w, int64_t apart) { return (void)apart, _mm256_cvtph_ps(load_halves(w)); }
INLINE counts dot_bytes(counts sum, counts w, const int8_t *four) {
    int32_t all;
    memcpy(&all, four, 4);
    return _mm256_dpbusd_avx_epi32(sum, w, _mm256_set1_epi32(all));
}
#define ALL_INTEGERS _mm256_set1_epi32
#define ALL_BYTES _mm256_set1_epi8
#define ALL_FLOATS _mm256_set1_ps
#define XOR _mm256_xor_si256
#define AND _mm256_and_si256
#define SHIFT_RIGHT _mm256_srli_epi16
#define TO_FLOATS _mm256_cvtepi32_ps
#define TIMES _mm256_mul_ps
#define TIMES_PLUS _mm256_fmadd_ps
#define STORE_FLOATS _mm256_storeu_ps
#endif

/* Call for the same block of the vector after this one. With many tokens the products take as long as the loads, and
 * would otherwise take their turns with them: panels are too short for the processor to see where they lead. */
INLINE void fetch_ahead(const uint8_t *w, int64_t apart, int64_t panel_bytes, int bytes) {
    for (int i = 0; i < bytes; i += 64) {
        __builtin_prefetch(w + WIDE * panel_bytes + i);
        if (WIDE > 1) __builtin_prefetch(w + apart + WIDE * panel_bytes + i);
    }
}

/* y[token] over all blocks. Weights come as 128 + q, which fits the unsigned factor; `off` takes the 128 away again. */
INLINE void panel8(const int brief, const int tokens, int64_t blocks, const uint8_t *w, int64_t apart,
                   const Activations *x, sums *y) {
    (void)brief; /* sums have 32 bits */
    const counts flip = ALL_BYTES(-128);
    for (int t = 0; t < tokens; t++) y[t] = ALL_FLOATS(0);
    for (int64_t b = 0; b < blocks; b++, w += BYTES8) {
        fetch_ahead(w, apart, blocks * BYTES8, BYTES8);
        counts sum[TOGETHER];
        for (int t = 0; t < tokens; t++) sum[t] = ALL_INTEGERS(x[t].off[b]);
#pragma GCC unroll 8
        for (int j = 0; j < BLOCK / 4; j++) {
            counts weights = XOR(load_bytes(w + 32 * j, apart), flip);
#pragma GCC unroll 8
            for (int t = 0; t < tokens; t++) sum[t] = dot_bytes(sum[t], weights, x[t].q + b * BLOCK + 4 * j);
        }
        sums scales = load_scales(w + PANEL * BLOCK, apart);
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++)
            y[t] = TIMES_PLUS(TIMES(scales, ALL_FLOATS(x[t].scale[b])), TO_FLOATS(sum[t]), y[t]);
    }
}

INLINE void panel4(const int tokens, int64_t blocks, const uint8_t *w, int64_t apart, const Activations *x, sums *y) {
    const counts low = ALL_BYTES(15);
    for (int t = 0; t < tokens; t++) y[t] = ALL_FLOATS(0);
    for (int64_t b = 0; b < blocks; b++, w += BYTES4) {
        fetch_ahead(w, apart, blocks * BYTES4, BYTES4);
        counts sum[TOGETHER];
        for (int t = 0; t < tokens; t++) sum[t] = ALL_INTEGERS(0);
#pragma GCC unroll 4
        for (int j = 0; j < BLOCK / 8; j++) {
            counts both = load_bytes(w + 32 * j, apart), first = AND(both, low), last = AND(SHIFT_RIGHT(both, 4), low);
#pragma GCC unroll 8
            for (int t = 0; t < tokens; t++) {
                const int8_t *q = x[t].q + b * BLOCK + 8 * j;
                sum[t] = dot_bytes(dot_bytes(sum[t], first, q), last, q + 4);
            }
        }
        sums scales = load_scales(w + PANEL * BLOCK / 2, apart);
        sums minima = load_scales(w + PANEL * BLOCK / 2 + 2 * PANEL, apart);
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) {
            y[t] = TIMES_PLUS(TIMES(scales, ALL_FLOATS(x[t].scale[b])), TO_FLOATS(sum[t]), y[t]);
            y[t] = TIMES_PLUS(minima, ALL_FLOATS(x[t].sum[b]), y[t]);
        }
    }
}

INLINE void store_panel(float *out, sums s, int64_t rows) {
    if (rows >= PANEL * WIDE) {
        STORE_FLOATS(out, s);
        return;
    }
    float all[PANEL * WIDE];
    STORE_FLOATS(all, s);
    memcpy(out, all, (size_t)rows * sizeof(float));
}

#endif
