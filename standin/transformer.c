#include "transformer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef float Eight __attribute__((vector_size(32), aligned(4), may_alias));
enum { LANES = 8, TILE = 4 };

typedef struct {
    const float *attention_norm, *q, *q_bias, *k, *k_bias, *v, *v_bias, *o;
    const float *mlp_norm, *gate, *up, *down;
} Layer;

struct Transformer {
    int vocabulary, hidden, intermediate, layers, heads, kv_heads, head, kv;
    float eps;
    float *weights;
    size_t n_weights;
    const float *embedding, *norm;
    Layer *layer;
    float *cosines, *sines; /* [position][head / 2] */
    float *normed, *q, *k, *v, *mixed, *gate, *up, *scores;
};

Transformer *transformer_new(const Container *c, int max_positions) {
    Transformer *t = calloc(1, sizeof *t);
    t->vocabulary = c->vocabulary;
    t->hidden = c->hidden;
    t->intermediate = c->intermediate;
    t->layers = c->layers;
    t->heads = c->heads;
    t->kv_heads = c->kv_heads;
    t->head = c->hidden / c->heads;
    t->kv = t->head * t->kv_heads;
    t->eps = c->norm_eps;

    t->n_weights = c->n_weights;
    t->weights = malloc(c->n_weights * sizeof(float));
    for (size_t i = 0; i < c->n_weights; i++) { /* a bfloat16 is the upper half of a float */
        uint32_t bits = (uint32_t)c->weights[i] << 16;
        memcpy(&t->weights[i], &bits, sizeof bits);
    }
    const float *next = t->weights;
#define TAKE(count) (next += (count), next - (count))
    t->embedding = TAKE((size_t)t->vocabulary * t->hidden);
    t->layer = calloc(t->layers, sizeof *t->layer);
    for (int i = 0; i < t->layers; i++) {
        Layer *layer = &t->layer[i];
        layer->attention_norm = TAKE(t->hidden);
        layer->q = TAKE(t->hidden * t->hidden);
        layer->q_bias = TAKE(t->hidden);
        layer->k = TAKE(t->kv * t->hidden);
        layer->k_bias = TAKE(t->kv);
        layer->v = TAKE(t->kv * t->hidden);
        layer->v_bias = TAKE(t->kv);
        layer->o = TAKE(t->hidden * t->hidden);
        layer->mlp_norm = TAKE(t->hidden);
        layer->gate = TAKE(t->intermediate * t->hidden);
        layer->up = TAKE(t->intermediate * t->hidden);
        layer->down = TAKE(t->intermediate * t->hidden);
    }
    t->norm = TAKE(t->hidden);
#undef TAKE

    int half = t->head / 2;
    t->cosines = malloc((size_t)max_positions * half * sizeof(float));
    t->sines = malloc((size_t)max_positions * half * sizeof(float));
    for (int i = 0; i < half; i++) {
        float rate = powf(c->rope_theta, -2.0f * i / t->head);
        for (int position = 0; position < max_positions; position++) {
            t->cosines[position * half + i] = cosf(position * rate);
            t->sines[position * half + i] = sinf(position * rate);
        }
    }
    t->normed = malloc(CHUNK * t->hidden * sizeof(float));
    t->q = malloc(CHUNK * t->hidden * sizeof(float));
    t->k = malloc(CHUNK * t->kv * sizeof(float));
    t->v = malloc(CHUNK * t->kv * sizeof(float));
    t->mixed = malloc(CHUNK * t->hidden * sizeof(float));
    t->gate = malloc(CHUNK * t->intermediate * sizeof(float));
    t->up = malloc(CHUNK * t->intermediate * sizeof(float));
    t->scores = malloc(max_positions * sizeof(float));
    return t;
}

void transformer_free(Transformer *t) {
    if (!t) return;
    float *owned[] = {t->weights, t->cosines, t->sines, t->normed, t->q, t->k,
                      t->v,       t->mixed,   t->gate,  t->up,     t->scores};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    free(t->layer);
    free(t);
}

int transformer_hidden(const Transformer *t) { return t->hidden; }
int transformer_vocabulary(const Transformer *t) { return t->vocabulary; }
size_t transformer_bytes(const Transformer *t) { return t->n_weights * sizeof(float); }

size_t cache_row(const Transformer *t) { return (size_t)t->layers * t->kv; }

void cache_init(Cache *cache, const Transformer *t, int capacity) {
    cache->capacity = capacity;
    cache->used = 0;
    cache->tokens = calloc(capacity, sizeof *cache->tokens);
    cache->keys = calloc(capacity * cache_row(t), sizeof(float));
    cache->values = calloc(capacity * cache_row(t), sizeof(float));
}

void cache_free(Cache *cache) {
    free(cache->tokens);
    free(cache->keys);
    free(cache->values);
    *cache = (Cache){0};
}

void cache_copy(Cache *to, const Cache *from, const Transformer *t, int count) {
    memcpy(to->tokens, from->tokens, count * sizeof *to->tokens);
    for (size_t layer = 0; layer < (size_t)t->layers; layer++) {
        size_t into = layer * to->capacity * t->kv, out_of = layer * from->capacity * t->kv;
        memcpy(to->keys + into, from->keys + out_of, (size_t)count * t->kv * sizeof(float));
        memcpy(to->values + into, from->values + out_of, (size_t)count * t->kv * sizeof(float));
    }
    to->used = count;
}

/* Arithmetic. Sums are always taken in the same order, however many positions go together. */

static inline float total(const Eight *v) {
    return ((*v)[0] + (*v)[4]) + ((*v)[1] + (*v)[5]) + (((*v)[2] + (*v)[6]) + ((*v)[3] + (*v)[7]));
}

static inline float dot(const float *a, const float *b, int n) {
    Eight sum = {0};
    for (int i = 0; i < n; i += LANES) sum += *(const Eight *)(a + i) * *(const Eight *)(b + i);
    return total(&sum);
}

/* out[count][rows] = x[count][columns] . weights[rows][columns] + bias; one read of a row serves a tile. */
static void multiply(float *out, const float *x, int count, const float *weights, const float *bias, int rows,
                     int columns) {
    int done = 0;
    for (; done + TILE <= count; done += TILE) {
        const float *x0 = x + (size_t)done * columns, *x1 = x0 + columns, *x2 = x1 + columns, *x3 = x2 + columns;
        for (int row = 0; row < rows; row++) {
            const float *w = weights + (size_t)row * columns;
            Eight a = {0}, b = {0}, c = {0}, d = {0};
            for (int i = 0; i < columns; i += LANES) {
                Eight weight = *(const Eight *)(w + i);
                a += *(const Eight *)(x0 + i) * weight;
                b += *(const Eight *)(x1 + i) * weight;
                c += *(const Eight *)(x2 + i) * weight;
                d += *(const Eight *)(x3 + i) * weight;
            }
            float add = bias ? bias[row] : 0;
            float *to = out + (size_t)done * rows + row;
            to[0] = total(&a) + add;
            to[rows] = total(&b) + add;
            to[2 * rows] = total(&c) + add;
            to[3 * rows] = total(&d) + add;
        }
    }
    for (; done < count; done++)
        for (int row = 0; row < rows; row++)
            out[(size_t)done * rows + row] =
                dot(x + (size_t)done * columns, weights + (size_t)row * columns, columns) + (bias ? bias[row] : 0);
}

static void normalise(float *out, const float *x, int count, const float *scale, int n, float eps) {
    for (; count-- > 0; x += n, out += n) {
        float factor = 1 / sqrtf(dot(x, x, n) / n + eps);
        for (int i = 0; i < n; i++) out[i] = x[i] * factor * scale[i];
    }
}

static void rotate(const Transformer *t, float *vector, int heads, int position) {
    int half = t->head / 2;
    const float *cosines = t->cosines + position * half, *sines = t->sines + position * half;
    for (int head = 0; head < heads; head++, vector += t->head)
        for (int i = 0; i < half; i++) {
            float first = vector[i], second = vector[i + half];
            vector[i] = first * cosines[i] - second * sines[i];
            vector[i + half] = second * cosines[i] + first * sines[i];
        }
}

/* One query head over positions 0..position. */
static void attend(const Transformer *t, const float *q, const float *keys, const float *values, int position,
                   float *out) {
    float scale = 1 / sqrtf((float)t->head), most = -INFINITY, sum = 0;
    for (int i = 0; i <= position; i++) {
        t->scores[i] = dot(q, keys + (size_t)i * t->kv, t->head) * scale;
        if (t->scores[i] > most) most = t->scores[i];
    }
    memset(out, 0, t->head * sizeof(float));
    for (int i = 0; i <= position; i++) {
        float weight = expf(t->scores[i] - most);
        const float *value = values + (size_t)i * t->kv;
        sum += weight;
        for (int j = 0; j < t->head; j += LANES) *(Eight *)(out + j) += weight * *(const Eight *)(value + j);
    }
    for (int j = 0; j < t->head; j++) out[j] /= sum;
}

static void add(float *x, const float *y, int n) {
    for (int i = 0; i < n; i++) x[i] += y[i];
}

static void attention(Transformer *t, const Layer *layer, Cache *cache, int index, float *x, int count) {
    float *keys = cache->keys + (size_t)index * cache->capacity * t->kv;
    float *values = cache->values + (size_t)index * cache->capacity * t->kv;
    int first = cache->used, group = t->heads / t->kv_heads;
    normalise(t->normed, x, count, layer->attention_norm, t->hidden, t->eps);
    multiply(t->q, t->normed, count, layer->q, layer->q_bias, t->hidden, t->hidden);
    multiply(t->k, t->normed, count, layer->k, layer->k_bias, t->kv, t->hidden);
    multiply(t->v, t->normed, count, layer->v, layer->v_bias, t->kv, t->hidden);
    for (int i = 0; i < count; i++) {
        rotate(t, t->q + i * t->hidden, t->heads, first + i);
        rotate(t, t->k + i * t->kv, t->kv_heads, first + i);
    }
    memcpy(keys + (size_t)first * t->kv, t->k, (size_t)count * t->kv * sizeof(float));
    memcpy(values + (size_t)first * t->kv, t->v, (size_t)count * t->kv * sizeof(float));
    for (int i = 0; i < count; i++)
        for (int head = 0; head < t->heads; head++) {
            int at = i * t->hidden + head * t->head, shared = head / group * t->head;
            attend(t, t->q + at, keys + shared, values + shared, first + i, t->mixed + at);
        }
    multiply(t->normed, t->mixed, count, layer->o, NULL, t->hidden, t->hidden);
    add(x, t->normed, count * t->hidden);
}

static void feed_forward(Transformer *t, const Layer *layer, float *x, int count) {
    normalise(t->normed, x, count, layer->mlp_norm, t->hidden, t->eps);
    multiply(t->gate, t->normed, count, layer->gate, NULL, t->intermediate, t->hidden);
    multiply(t->up, t->normed, count, layer->up, NULL, t->intermediate, t->hidden);
    for (int i = 0; i < count * t->intermediate; i++)
        t->gate[i] = t->gate[i] / (1 + expf(-t->gate[i])) * t->up[i];
    multiply(t->normed, t->gate, count, layer->down, NULL, t->hidden, t->intermediate);
    add(x, t->normed, count * t->hidden);
}

void transformer_embed(const Transformer *t, const int32_t *ids, int count, float *out) {
    for (int i = 0; i < count; i++)
        memcpy(out + (size_t)i * t->hidden, t->embedding + (size_t)ids[i] * t->hidden, t->hidden * sizeof(float));
}

void transformer_forward(Transformer *t, Cache *cache, const int32_t *ids, float *x, int count) {
    for (int i = 0; i < t->layers; i++) {
        attention(t, &t->layer[i], cache, i, x, count);
        feed_forward(t, &t->layer[i], x, count);
    }
    for (int i = 0; i < count; i++) cache->tokens[cache->used + i] = ids ? ids[i] : -1;
    cache->used += count;
    normalise(x, x, count, t->norm, t->hidden, t->eps);
}

void transformer_logits(const Transformer *t, const float *hidden, int count, float *out) {
    multiply(out, hidden, count, t->embedding, NULL, t->vocabulary, t->hidden);
}
