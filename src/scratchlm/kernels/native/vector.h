/* Vector types, the functions that GELU and softmax need, and dropout drawn from a counter instead of a generator.
 *
 * Loops marked "omp simd" are written so that the compiler turns each into vector instructions of whatever width the
 * processor has; only the matrix products (matmul.h) name vectors themselves. */
#ifndef SCRATCHLM_VECTOR_H
#define SCRATCHLM_VECTOR_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define CEIL_DIV(a, b) (((a) + (b)-1) / (b))

typedef float vec __attribute__((vector_size(4 * LANES)));
/* The same vector at any float's address. */
typedef float loose_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

/* a where mask is all ones, b where it is zero. */
INLINE vec choose(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }

INLINE vec broadcast(float x) { return x - (vec){0}; }

/* A mask of the first n lanes (all of them from LANES on, none below 1). */
INLINE ivec first_lanes(int64_t n) {
    ivec lane;
    for (int l = 0; l < LANES; l++) lane[l] = l;
    return lane < (int32_t)MAX(MIN(n, LANES), 0);
}

/* A vector's lanes added up, and their largest, two by two. */
INLINE float sum_lanes(vec v) {
    float lane[LANES];
    memcpy(lane, &v, sizeof v);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

#ifndef __clang__
/* `count` vectors of groups of 2 * half lanes -> count / 2 of groups of half: the halves of each group added up. */
INLINE void halve_groups(vec *v, const int count, const int half) {
    ivec low;
#pragma GCC unroll 16
    for (int j = 0; j < LANES; j++) low[j] = j / half * 2 * half + j % half;
#pragma GCC unroll 8
    for (int j = 0; j < count / 2; j++)
        v[j] = __builtin_shuffle(v[2 * j], v[2 * j + 1], low) + __builtin_shuffle(v[2 * j], v[2 * j + 1], low + half);
}
#endif

/* LANES vectors, each added up: lane j is sum_lanes(v[j]), to the bit. Overwrites v. */
INLINE vec sum_each(vec *v) {
#ifdef __clang__
    vec all;
    for (int j = 0; j < LANES; j++) all[j] = sum_lanes(v[j]);
    return all;
#else
#if LANES == 16
    halve_groups(v, 16, 8);
#endif
#if LANES >= 8
    halve_groups(v, 8, 4);
#endif
    halve_groups(v, 4, 2);
    halve_groups(v, 2, 1);
    return v[0];
#endif
}

INLINE float max_lanes(vec v) {
    float lane[LANES];
    memcpy(lane, &v, sizeof v);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) lane[l] = MAX(lane[l], lane[l + half]);
    return lane[0];
}

/* e^x for x <= 0 (below -80 it stays at about 2e-35, clear of slow denormal numbers): x = n ln 2 + r, e^r by its Taylor polynomial on |r| <= ln 2 / 2,
 * 2^n put straight into the exponent. Relative error below 2e-7. */
INLINE float exp_nonpositive(float x) {
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it leaves the nearest whole number in the low bits */
    x = x < -80.0f ? -80.0f : x;
    float shifted = x * 1.44269504f + round;
    float n = shifted - round;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f; /* ln 2 in two parts, the first exact */
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, 4);
    bits = (bits + 127u) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return p * power;
}

/* gelu(u) = u * Phi(u) and its slope Phi(u) + u * phi(u), Phi and phi being the normal distribution's cumulative and
 * density functions. Phi's tail is Abramowitz & Stegun 7.1.26: a polynomial in t times e^(-u^2/2), which phi needs as
 * well, so that both cost one exponential. Absolute error below 5e-7. */
INLINE float gelu_and_slope(float u, float *slope) {
    float z = u < 0 ? -u : u;
    float bell = exp_nonpositive(-0.5f * u * u);
    float t = 1.0f / (1.0f + 0.3275911f * 0.70710678f * z);
    float p = 0.5f * 1.061405429f;
    p = p * t - 0.5f * 1.453152027f;
    p = p * t + 0.5f * 1.421413741f;
    p = p * t - 0.5f * 0.284496736f;
    p = p * t + 0.5f * 0.254829592f;
    float tail = p * t * bell;
    float cumulative = u < 0 ? tail : 1.0f - tail;
    *slope = cumulative + u * 0.39894228f * bell;
    return u * cumulative;
}

/* Dropout. A mask is a pure function of (seed, stream, row, column), so the backward pass draws it again instead of
 * storing it. The probability is honoured to 1/65536 and the scale belongs to the probability really used. */
typedef struct {
    uint32_t key0, key1, threshold;
    float scale;
} Dropout;

static Dropout make_dropout(int64_t seed, float probability) {
    Dropout d;
    d.key0 = (uint32_t)seed;
    d.key1 = (uint32_t)((uint64_t)seed >> 32);
    d.threshold = MIN((uint32_t)(probability * 65536.0f + 0.5f), 65535u);
    d.scale = 65536.0f / (65536.0f - (float)d.threshold);
    return d;
}

/* Multipliers (0 or the scale) of 32 elements. Each of 16 hashed counters decides two: its low half element l, its
 * high half element l + 16. The hash is a two-round multiply-xorshift (constants by C. Wellons' hash-prospector). */
INLINE void draw_block(Dropout d, uint32_t block, float *restrict factor) {
#pragma omp simd
    for (uint32_t l = 0; l < 16; l++) {
        uint32_t x = block * 16u + l + d.key0;
        x ^= x >> 16;
        x *= 0x21f0aaadu;
        x ^= d.key1 ^ (x >> 15);
        x *= 0xd35a2d97u;
        x ^= x >> 15;
        factor[l] = (x & 0xffffu) >= d.threshold ? d.scale : 0.0f;
        factor[l + 16] = (x >> 16) >= d.threshold ? d.scale : 0.0f;
    }
}

/* out[j] = in[j] * factor[j] (+ base[j] if given), for one row of a matrix with `columns` columns. */
INLINE void drop_row(Dropout d, int64_t row, int64_t columns, int64_t used, const float *in, const float *base,
                     float *out) {
    float factor[32];
    uint32_t block = (uint32_t)(row * CEIL_DIV(columns, 32));
    for (int64_t j = 0; j < used; j += 32, block++) {
        draw_block(d, block, factor);
        int64_t n = MIN(used - j, 32);
        if (n == 32 && base)
#pragma omp simd
            for (int l = 0; l < 32; l++) out[j + l] = base[j + l] + in[j + l] * factor[l];
        else if (n == 32)
#pragma omp simd
            for (int l = 0; l < 32; l++) out[j + l] = in[j + l] * factor[l];
        else
            for (int64_t l = 0; l < n; l++) out[j + l] = (base ? base[j + l] : 0.0f) + in[j + l] * factor[l];
    }
}

INLINE void add_row(int64_t n, const float *x, float *sum) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) sum[j] += x[j];
}

/* A row of memory for one thread, aligned to a cache line. */
static float *scratch(int64_t floats) { return aligned_alloc(64, (size_t)CEIL_DIV(MAX(floats, 1), 16) * 64); }

#endif
