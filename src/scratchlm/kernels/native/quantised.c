/* Packing matrices for quantised.h: from float32, and from the blocks of GGUF files without going through float32. */
#include "quantised.h"

/* One row's share of one packed block. */
static void put8(uint8_t *block, int r, const int8_t *q, half scale) {
    for (int i = 0; i < BLOCK; i++) block[32 * (i / 4) + 4 * r + i % 4] = (uint8_t)q[i];
    memcpy(block + PANEL * BLOCK + 2 * r, &scale, 2);
}

static void put4(uint8_t *block, int r, const uint8_t *q, half scale, half minimum) {
    for (int j = 0; j < BLOCK / 8; j++)
        for (int i = 0; i < 4; i++) block[32 * j + 4 * r + i] = (uint8_t)(q[8 * j + i] | q[8 * j + 4 + i] << 4);
    memcpy(block + PANEL * BLOCK / 2 + 2 * r, &scale, 2);
    memcpy(block + PANEL * BLOCK / 2 + 2 * PANEL + 2 * r, &minimum, 2);
}

/* Symmetric, the largest weight of the block at 127. */
static void round8(const float *w, uint8_t *block, int r) {
    int8_t q[BLOCK];
    float largest = 0;
    for (int i = 0; i < BLOCK; i++) largest = MAX(largest, __builtin_fabsf(w[i]));
    float inverse = largest > 0 ? 127.0f / largest : 0;
    for (int i = 0; i < BLOCK; i++) q[i] = (int8_t)__builtin_rintf(w[i] * inverse);
    put8(block, r, q, to_half(largest / 127.0f));
}

/* How far scale * q + minimum is from w, squared, with the q that it rounds to. */
static float error4(const float *w, float scale, float minimum, uint8_t *q) {
    float inverse = scale > 0 ? 1.0f / scale : 0, error = 0;
    for (int i = 0; i < BLOCK; i++) {
        float level = __builtin_rintf((w[i] - minimum) * inverse);
        level = level < 0 ? 0 : level > 15 ? 15 : level;
        q[i] = (uint8_t)level;
        float off = scale * level + minimum - w[i];
        error += off * off;
    }
    return error;
}

/* The range from the least to the largest weight in 15 steps; then the scale and minimum that fit those steps best (a
 * line through the points (q, w)), as long as that lowers the squared error. */
static void round4(const float *w, uint8_t *block, int r) {
    float least = w[0], largest = w[0];
    for (int i = 1; i < BLOCK; i++) least = MIN(least, w[i]), largest = MAX(largest, w[i]);
    half scale = to_half((largest - least) / 15.0f), minimum = to_half(least);
    uint8_t best[BLOCK], q[BLOCK];
    float error = error4(w, from_half(scale), from_half(minimum), best);
    for (int round = 0; round < 4 && error > 0; round++) {
        float n = BLOCK, sq = 0, sqq = 0, sw = 0, sqw = 0;
        for (int i = 0; i < BLOCK; i++) {
            sq += best[i];
            sqq += (float)best[i] * best[i];
            sw += w[i];
            sqw += best[i] * w[i];
        }
        float spread = n * sqq - sq * sq;
        if (spread <= 0) break;
        float slope = (n * sqw - sq * sw) / spread;
        if (!(slope > 0)) break;
        half new_scale = to_half(slope), new_minimum = to_half((sw - slope * sq) / n);
        float tried = error4(w, from_half(new_scale), from_half(new_minimum), q);
        if (!(tried < error)) break;
        error = tried, scale = new_scale, minimum = new_minimum;
        memcpy(best, q, BLOCK);
    }
    put4(block, r, best, scale, minimum);
}

int64_t packed_bytes(int64_t kind, int64_t N, int64_t K) { return CEIL_DIV(N, PANEL) * panel_bytes((int)kind, K); }

/* w (N, K) float32 -> packed. */
void pack_matrix(int64_t kind, int64_t N, int64_t K, const float *w, uint8_t *packed, int64_t threads) {
    int64_t bytes = panel_bytes((int)kind, K), block_bytes = kind == INT8 ? BYTES8 : BYTES4;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t p = 0; p < CEIL_DIV(N, PANEL); p++)
        for (int r = 0; r < PANEL; r++)
            for (int64_t b = 0; b * BLOCK < K; b++) {
                float block[BLOCK] = {0};
                if (p * PANEL + r < N)
                    memcpy(block, w + (p * PANEL + r) * K + b * BLOCK, (size_t)MIN(K - b * BLOCK, BLOCK) * sizeof(float));
                uint8_t *to = packed + p * bytes + b * block_bytes;
                if (kind == INT8)
                    round8(block, to, r);
                else
                    round4(block, to, r);
            }
}

enum { GGUF_Q8_0, GGUF_Q4_0, GGUF_Q4_1 };

/* Rows of GGUF blocks (K a multiple of 32) -> rows first .. first + count - 1 of a packed matrix of N rows. `order`
 * says which of the given rows comes first, second and so on; NULL leaves them as they are. Nothing is rounded: 4 bits
 * with a scale (and minimum) become the same here, and so do 8 bits. */
void pack_gguf(int64_t type, int64_t N, int64_t K, const uint8_t *rows, const int64_t *order, int64_t first, int64_t count,
               uint8_t *packed, int64_t threads) {
    int64_t size = type == GGUF_Q8_0 ? 34 : type == GGUF_Q4_0 ? 18 : 20, blocks = K / BLOCK;
    int kind = type == GGUF_Q8_0 ? INT8 : INT4;
    int64_t bytes = panel_bytes(kind, K), block_bytes = kind == INT8 ? BYTES8 : BYTES4;
    int64_t beyond = first + count == N ? CEIL_DIV(N, PANEL) * PANEL - N : 0; /* the last panel's unused rows */
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < count + beyond; i++) {
        int64_t n = first + i;
        uint8_t *to = packed + n / PANEL * bytes;
        const uint8_t *from = i < count ? rows + (order ? order[i] : i) * blocks * size : NULL;
        for (int64_t b = 0; b < blocks; b++, to += block_bytes) {
            uint8_t q[BLOCK] = {0};
            half scale = 0, minimum = 0;
            if (from) {
                const uint8_t *block = from + b * size, *data = block + (type == GGUF_Q4_1 ? 4 : 2);
                memcpy(&scale, block, 2);
                if (type == GGUF_Q8_0)
                    memcpy(q, data, BLOCK);
                else
                    for (int k = 0; k < BLOCK / 2; k++) q[k] = data[k] & 15, q[k + BLOCK / 2] = data[k] >> 4;
                if (type == GGUF_Q4_1) memcpy(&minimum, block + 2, 2);
                if (type == GGUF_Q4_0) minimum = to_half(-8.0f * from_half(scale));
            }
            if (kind == INT8)
                put8(to, (int)(n % PANEL), (const int8_t *)q, scale);
            else
                put4(to, (int)(n % PANEL), q, scale, minimum);
        }
    }
}

/* packed -> w (N, K) float32. */
void unpack_matrix(int64_t kind, int64_t N, int64_t K, const uint8_t *packed, float *w, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t n = 0; n < N; n++) unpack_row((int)kind, K, packed, n, w + n * K);
}

/* y (M, N) = x (M, K) W^T, x in 8 bits. work: quantised_work(M, K) bytes. */
int64_t quantised_work(int64_t M, int64_t K) { return M * activation_bytes(K); }

void quantised_linear(int64_t kind, int64_t M, int64_t N, int64_t K, const float *x, const uint8_t *packed, float *y,
                      char *work, int64_t threads) {
    int64_t panels = CEIL_DIV(N, PANEL), share = panels_at_once(panels, threads, 16);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t m = 0; m < M; m++) round_activations((int)kind, x + m * K, K, activations_at(work, K, m));
#pragma omp for schedule(dynamic)
        for (int64_t p = 0; p < panels; p += share)
            multiply_panels((int)kind, M, N, K, packed, work, y, N, p, MIN(p + share, panels));
    }
}
