/* The operations of shared.h that Python calls; all as in native.c. */
#include "shared.h"

static Shared make_shared(int64_t count, const int64_t *starts, const int64_t *ends, const int64_t *bounds,
                          const int64_t *tokens, int64_t H, int64_t G, int64_t D, float scale) {
    Shared s = {count, starts, ends, bounds, tokens, H, G, D, scale};
    return s;
}

void shared_forward(int64_t count, const int64_t *starts, const int64_t *ends, const int64_t *bounds,
                    const int64_t *tokens, int64_t H, int64_t G, int64_t D, float scale, const float *qkv, float *out,
                    int64_t threads) {
    Shared s = make_shared(count, starts, ends, bounds, tokens, H, G, D, scale);
#pragma omp parallel num_threads(threads)
    {
        float *work = scratch(shared_forward_scratch(s));
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < count * G; job++)
            shared_forward_head(s, shared_text(s, job / G), job % G, qkv, out, work);
        free(work);
    }
}

/* dqkv (tokens, (H + 2G) D); told: (2 G D) floats for each token of each text. */
void shared_backward(int64_t count, const int64_t *starts, const int64_t *ends, const int64_t *bounds,
                     const int64_t *tokens, int64_t H, int64_t G, int64_t D, float scale, int64_t N, const float *qkv,
                     const float *dout, float *dqkv, float *told, int64_t threads) {
    Shared s = make_shared(count, starts, ends, bounds, tokens, H, G, D, scale);
    int64_t ld = (H + 2 * G) * D;
#pragma omp parallel num_threads(threads)
    {
        float *work = scratch(shared_backward_scratch(s));
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < count * G; job++) {
            int64_t text = job / G, g = job % G, length = bounds[text + 1] - bounds[text];
            float *mine = told + (bounds[text] * G + g * length) * 2 * D;
            shared_backward_head(s, shared_text(s, text), g, qkv, dout, dqkv, mine, work);
        }
        free(work);
#pragma omp for schedule(static)
        for (int64_t part = 0; part < 2 * G; part++) { /* key heads, then value heads */
            float *columns = dqkv + (H + part) * D;
            for (int64_t i = 0; i < N; i++) memset(columns + i * ld, 0, (size_t)D * sizeof(float));
            for (int64_t text = 0; text < count; text++) {
                int64_t length = bounds[text + 1] - bounds[text];
                const float *rows = told + (bounds[text] * G + part % G * length) * 2 * D + part / G * length * D;
                for (int64_t j = 0; j < length; j++) add_row(D, rows + j * D, columns + tokens[bounds[text] + j] * ld);
            }
        }
    }
}
