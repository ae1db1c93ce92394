/* A whole model in one call: tokens of one or many sequences go in, logits (or final states) come out.
 *
 * Sequences of different lengths lie end to end with no padding: some bring one new token, others a piece of their
 * prompt. All threads walk through the layers together, share out each product, and meet at barriers; with a single
 * token what lies between the products is so little that each thread does it for itself, which spares half of the
 * barriers. Every pointer that a model has no tensor for is NULL.
 *
 * A token's numbers do not depend on the other tokens of the call. With float32 weights there are two kinds of product,
 * for the first `dots` tokens dot products that read each weight once, for the others a blocked product; they round
 * differently, so the caller decides by what a token is (generated or prompt), not by how many there are. */
#include <omp.h>

#include "cached.h"
#include "quantised.h"
#include "rows.h"

typedef struct {
    const void *data; /* (rows, columns) float32, or packed by quantised.c */
    const float *bias;
    int64_t rows, columns;
    int64_t kind;
} Matrix;

typedef struct {
    const float *norm1_weight, *norm1_bias, *q_norm, *k_norm, *norm2_weight, *norm2_bias;
    Matrix qkv, out, up, down;
    int64_t window;
} Layer;

typedef struct {
    const Layer *layers;
    Matrix tokens, head;
    const float *positions, *types; /* (context, C), the first of (types, C) */
    const float *embed_norm_weight, *embed_norm_bias, *cos, *sin, *norm_weight, *norm_bias;
    float embedding_scale, eps;
    int32_t layer_count, width, heads, kv_heads, head_size, ffn, activation, rms, pre, causal;
} Model;

typedef struct {
    int64_t tokens, dots, segments;
    const int64_t *ids, *positions;                                      /* (tokens) */
    const int64_t *segment_first, *segment_tokens, *segment_slot, *segment_start; /* (segments) */
    int64_t wanted_count;
    const int64_t *wanted; /* tokens whose logits are asked for */
    int64_t slots, capacity, one_layer; /* one_layer: the layers share the memory of one (nothing is kept) */
    float *keys, *values;
    float *logits, *states; /* (wanted, V); (tokens, C) after the final norm, or NULL */
    char *work;
    int64_t threads;
    const int32_t *stop; /* becomes other than 0 when somebody wants the call to end early; or NULL */
} Call;

/* What a product reads: floats, and the same rounded to 8 bits where the weights are quantised. */
typedef struct {
    float *x;
    char *rounded;
} Input;

typedef struct {
    const Model *m;
    const Call *c;
    int64_t widest;      /* columns of the widest input of a product */
    int64_t first, step; /* which tokens this thread prepares */
    int alone;           /* a single token: each thread prepares it for itself */
    float *x, *z, *qkv, *mixed, *hidden, *packed, *scores;
    Input normed;
} Thread;

/* ---- products ------------------------------------------------------------------------------------------------ */

/* y (tokens, w->rows) = in W^T + bias, to be called by all threads; ends with a barrier. `dots` as in Call. */
static void linear(const Thread *t, const Matrix *w, Input in, int64_t ldx, float *y, int64_t tokens, int64_t dots) {
    int64_t N = w->rows, K = w->columns, threads = t->c->threads;
    if (w->kind != FLOAT32) {
        int64_t panels = CEIL_DIV(N, PANEL), grain = panels_at_once(panels, threads, 64);
#pragma omp for schedule(dynamic) nowait
        for (int64_t p = 0; p < panels; p += grain) {
            int64_t last = MIN(p + grain, panels), from = p * PANEL, n = MIN(last * PANEL, N) - from;
            multiply_panels((int)w->kind, tokens, N, K, w->data, in.rounded, y, N, p, last);
            if (w->bias)
                for (int64_t r = 0; r < tokens; r++) add_row(n, w->bias + from, y + r * N + from);
        }
    } else {
        if (dots)
#pragma omp for schedule(static) nowait
            for (int64_t o = 0; o < N; o += DOT_BLOCK) {
                int64_t count = MIN(DOT_BLOCK, N - o);
                dot_outputs(w->data, in.x, ldx, y, N, dots, K, o, o + count, N);
                if (w->bias)
                    for (int64_t r = 0; r < dots; r++) add_row(count, w->bias + o, y + r * N + o);
            }
        if (tokens > dots) {
            pack(w->data, 1, K, N, K, t->packed); /* ends with a barrier of its own */
#pragma omp for schedule(dynamic) nowait
            for (int64_t r = dots; r < tokens; r += ROWS) {
                int64_t rows = MIN(ROWS, tokens - r);
                multiply(rows, N, K, in.x + r * ldx, ldx, t->packed, y + r * N, N);
                if (w->bias)
                    for (int64_t i = r; i < r + rows; i++) add_row(N, w->bias, y + i * N);
            }
        }
    }
#pragma omp barrier
}

static void round_input(const Matrix *w, Input in, int64_t token, const float *x) {
    if (w->kind != FLOAT32) round_activations((int)w->kind, x, w->columns, activations_at(in.rounded, w->columns, token));
}

/* ---- the parts of a layer, each by all threads ----------------------------------------------------------------- */

static void embed(const Thread *t) {
    const Model *m = t->m;
    for (int64_t i = t->first; i < t->c->tokens; i += t->step) {
        float *x = t->x + i * m->width;
        if (m->tokens.kind == FLOAT32)
            memcpy(x, (const float *)m->tokens.data + t->c->ids[i] * m->width, (size_t)m->width * sizeof(float));
        else
            unpack_row((int)m->tokens.kind, m->width, m->tokens.data, t->c->ids[i], x);
        for (int j = 0; j < m->width; j++) x[j] *= m->embedding_scale;
        if (m->positions) add_row(m->width, m->positions + t->c->positions[i] * m->width, x);
        if (m->types) add_row(m->width, m->types, x);
        if (m->embed_norm_weight) norm(x, m->embed_norm_weight, m->embed_norm_bias, x, m->width, m->eps, m->rms);
    }
}

/* The last product's result joins the residual stream (if there is one yet); then what the next product reads. */
static void join(const Thread *t, const float *z, const float *weight, const float *bias, const Matrix *next) {
    const Model *m = t->m;
    int64_t C = m->width;
    for (int64_t i = t->first; i < t->c->tokens; i += t->step) {
        float *x = t->x + i * C, *y = m->pre ? t->normed.x + i * C : x;
        if (z) add_row(C, z + i * C, x);
        if (weight) norm(x, weight, bias, y, m->width, m->eps, m->rms);
        if (next) round_input(next, t->normed, i, y);
    }
}

/* The final norm. Where threads share y (a single token) all write the same numbers. */
static void finish(const Model *m, const float *x, float *y) {
    if (m->norm_weight)
        norm(x, m->norm_weight, m->norm_bias, y, m->width, m->eps, m->rms);
    else
        memcpy(y, x, (size_t)m->width * sizeof(float));
}

static void sync(const Thread *t) {
    if (!t->alone) {
#pragma omp barrier
    }
}

static Shape shape(const Model *m, const Call *c, const Layer *w) {
    Shape s = {m->heads, m->kv_heads, m->head_size, c->capacity, w ? w->window : 0, m->causal};
    return s;
}

/* Normalise and turn queries and keys, and put keys and values in the cache; then every query attends. */
static void attention(const Thread *t, const Layer *w, int64_t layer) {
    const Model *m = t->m;
    const Call *c = t->c;
    Shape s = shape(m, c, w);
    int64_t D = s.size, packed = (s.heads + 2 * s.kv_heads) * D, wide = strips(D) * NR;
    int64_t sequences = c->one_layer ? 0 : layer * c->slots;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < c->tokens; i++) {
        int64_t segment = 0;
        while (i >= c->segment_first[segment] + c->segment_tokens[segment]) segment++;
        int64_t place = c->segment_start[segment] + i - c->segment_first[segment];
        float *q = t->qkv + i * packed;
        int64_t angle = c->positions[i] * (D / 2);
        for (int h = 0; h < s.heads + s.kv_heads; h++, q += D) {
            if (w->q_norm) norm(q, h < s.heads ? w->q_norm : w->k_norm, NULL, q, s.size, m->eps, 1);
            if (m->cos) rotate(q, m->cos + angle, m->sin + angle, s.size);
        }
        int64_t row = (sequences + c->segment_slot[segment]) * s.kv_heads;
        const float *k = t->qkv + i * packed + s.heads * D;
        for (int g = 0; g < s.kv_heads; g++, row++, k += D) {
            store_key(s, c->keys + row * c->capacity * D, place, k);
            store_value(s, c->values + row * c->capacity * wide, place, k + s.kv_heads * D);
        }
    }
    int64_t tile = tile_tokens(s), tasks = 0;
    for (int64_t i = 0; i < c->segments; i++) tasks += CEIL_DIV(c->segment_tokens[i], tile) * s.kv_heads;
#pragma omp for schedule(dynamic) nowait
    for (int64_t task = tasks - 1; task >= 0; task--) { /* the longest first */
        int64_t segment = 0, rest = task;
        for (int64_t n; rest >= (n = CEIL_DIV(c->segment_tokens[segment], tile) * s.kv_heads); segment++) rest -= n;
        int64_t g = rest % s.kv_heads, from = rest / s.kv_heads * tile, first = c->segment_first[segment] + from;
        int64_t start = c->segment_start[segment], row = (sequences + c->segment_slot[segment]) * s.kv_heads + g;
        attend(s, (int)g, MIN(tile, c->segment_tokens[segment] - from), start + from, start + c->segment_tokens[segment],
               t->qkv + first * packed, packed, c->keys + row * c->capacity * D, c->values + row * c->capacity * wide,
               t->mixed + first * s.heads * D, s.heads * D, t->scores);
    }
#pragma omp barrier
    for (int64_t i = t->first; i < c->tokens; i += t->step)
        round_input(&w->out, t->normed, i, t->mixed + i * s.heads * D);
    sync(t);
}

static void feed_forward(const Thread *t, const Layer *w) {
    const Model *m = t->m;
    int64_t inner = w->up.rows, tokens = t->c->tokens;
    Input hidden = {t->alone ? t->normed.x + m->width : t->hidden, t->normed.rounded};
    linear(t, &w->up, (Input){m->pre ? t->normed.x : t->x, t->normed.rounded}, m->width, t->hidden, tokens, t->c->dots);
    for (int64_t i = t->first; i < tokens; i += t->step) {
        float *h = hidden.x + i * inner;
        if (t->alone) memcpy(h, t->hidden, (size_t)inner * sizeof(float));
        activate(m->activation, m->ffn, h);
        round_input(&w->down, hidden, i, h);
    }
    sync(t);
    linear(t, &w->down, hidden, inner, t->z, tokens, t->c->dots);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static int64_t line(int64_t bytes) { return CEIL_DIV(bytes, 64) * 64; }

/* How many of the wanted logits are dot products: all, but for whole texts that are to be scored. */
static int64_t dotted(const Call *c) {
    int64_t generated = 0;
    while (generated < c->wanted_count && c->wanted[generated] < c->dots) generated++;
    return c->wanted_count - generated > 64 ? generated : c->wanted_count;
}

static int64_t largest_matrix(const Model *m, const Call *c) {
    int64_t floats = dotted(c) < c->wanted_count && !m->head.kind ? packed_floats(m->head.rows, m->head.columns) : 0;
    for (int l = 0; l < m->layer_count; l++) {
        const Matrix *all[] = {&m->layers[l].qkv, &m->layers[l].out, &m->layers[l].up, &m->layers[l].down};
        for (int i = 0; i < 4; i++)
            if (all[i]->kind == FLOAT32) floats = MAX(floats, packed_floats(all[i]->rows, all[i]->columns));
    }
    return floats;
}

/* Cuts the working memory into its parts for one thread; returns the bytes that all threads need together. With a
 * single token each thread has a stream and inputs of its own, else they share. */
static int64_t divide(Thread *t, char *work, int64_t thread, int64_t longest) {
    const Model *m = t->m;
    const Call *c = t->c;
    const Layer *w = m->layers;
    int64_t tokens = c->tokens, alone = tokens == 1, packed = w->qkv.rows, mixed = w->qkv.rows, at = 0;
    t->widest = MAX(MAX(m->width, w->out.columns), w->down.columns);
    int64_t stream = line(tokens * m->width * 4), normed = line(tokens * (m->width + (alone ? w->up.rows : 0)) * 4);
    int64_t rounded = line(tokens * activation_bytes(t->widest)), scores = line(attend_work(shape(m, c, NULL), longest) * 4);
    int64_t copies = alone ? c->threads : 1, mine = alone ? thread : 0;
#define PART(size) (at += (size), (void *)(work + at - (size)))
    t->z = PART(stream);
    t->qkv = PART(line(tokens * packed * 4));
    t->mixed = PART(line(tokens * mixed * 4));
    t->hidden = PART(line(tokens * w->up.rows * 4));
    t->packed = PART(tokens > c->dots ? line(largest_matrix(m, c) * 4) : 0);
    t->x = PART(copies * stream);
    t->normed.x = PART(copies * normed);
    t->normed.rounded = PART(copies * rounded);
    t->scores = PART(c->threads * scores);
    t->x += mine * stream / 4;
    t->normed.x += mine * normed / 4;
    t->normed.rounded += mine * rounded;
    t->scores += thread * scores / 4;
    t->alone = (int)alone;
    t->first = alone ? 0 : thread;
    t->step = alone ? 1 : c->threads;
    return at;
}

/* Bytes of work for a call of this size, no sequence longer than `longest`. */
int64_t forward_work(const Model *m, const Call *c, int64_t longest) {
    Thread t = {.m = m, .c = c};
    return divide(&t, c->work, 0, longest);
}

/* After the last layer, whose result z joins the stream: the final states, and the logits. */
static void conclude(const Thread *t, const float *z, const float *weight, const float *bias) {
    const Model *m = t->m;
    const Call *c = t->c;
    int64_t C = m->width;
    join(t, z, weight, bias, NULL);
    sync(t);
    if (c->states)
        for (int64_t i = t->first; i < c->tokens; i += t->step) finish(m, t->x + i * C, c->states + i * C);
    if (!c->wanted_count) return;
    for (int64_t i = t->first; i < c->wanted_count; i += t->step) { /* these states gather at the front of `normed` */
        finish(m, t->x + c->wanted[i] * C, t->normed.x + i * C);
        round_input(&m->head, t->normed, i, t->normed.x + i * C);
    }
    sync(t);
    linear(t, &m->head, t->normed, C, c->logits, c->wanted_count, dotted(c));
}

/* Returns 0 where it was stopped and gave up, else 1. Past half of the layers it is no longer worth it. The first
 * thread looks, and all act on what it saw: its note is read a barrier after it was written, and written again only
 * when all have read it. */
int64_t forward(const Model *m, const Call *c, int64_t longest) {
    int stopped = 0;
#pragma omp parallel num_threads(c->threads)
    {
        Thread t = {.m = m, .c = c};
        int64_t me = omp_get_thread_num(), tokens = c->tokens, C = m->width;
        divide(&t, c->work, me, longest);
        embed(&t);
        const float *z = NULL, *weight = NULL, *bias = NULL; /* a post-norm layer's last norm waits for its turn */
        for (int64_t l = 0; l < m->layer_count; l++) {
            const Layer *w = m->layers + l;
            if (me == 0 && c->stop && 2 * l < m->layer_count) stopped = __atomic_load_n(c->stop, __ATOMIC_RELAXED) != 0;
            if (m->pre) weight = w->norm1_weight, bias = w->norm1_bias;
            join(&t, z, weight, bias, &w->qkv);
            sync(&t);
            linear(&t, &w->qkv, (Input){m->pre ? t.normed.x : t.x, t.normed.rounded}, C, t.qkv, tokens, c->dots);
            attention(&t, w, l);
            if (stopped) break;
            linear(&t, &w->out, (Input){t.mixed, t.normed.rounded}, w->out.columns, t.z, tokens, c->dots);
            join(&t, t.z, m->pre ? w->norm2_weight : w->norm1_weight, m->pre ? w->norm2_bias : w->norm1_bias, &w->up);
            sync(&t);
            feed_forward(&t, w);
            z = t.z, weight = w->norm2_weight, bias = w->norm2_bias;
        }
        if (!stopped) conclude(&t, z, m->pre ? NULL : weight, bias);
    }
    return !stopped;
}

int64_t cache_width(void) { return NR; }
