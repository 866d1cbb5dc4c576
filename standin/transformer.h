/* Qwen2's forward pass in float32: RMSNorm, rotary positions by halves, grouped-query attention with biases,
 * SwiGLU, tied embeddings.
 *
 * A token's numbers do not depend on how many are evaluated together, so a prompt whose beginning was found
 * in the cache gives, bit for bit, what the whole prompt would have given. */
#ifndef STANDIN_TRANSFORMER_H
#define STANDIN_TRANSFORMER_H

#include "container.h"

typedef struct Transformer Transformer;

/* Keys and values of one sequence. A token is -1 where the input was no token (an embedding). */
typedef struct {
    int capacity;
    _Atomic int used; /* its size may be asked for during a run */
    int32_t *tokens;
    float *keys, *values; /* [layer][position][kv heads x head] */
} Cache;

enum { CHUNK = 32 }; /* most positions of one forward pass */

Transformer *transformer_new(const Container *container, int max_positions);
void transformer_free(Transformer *transformer);
int transformer_hidden(const Transformer *transformer);
int transformer_vocabulary(const Transformer *transformer);
size_t transformer_bytes(const Transformer *transformer);

void cache_init(Cache *cache, const Transformer *transformer, int capacity);
void cache_free(Cache *cache);
/* Takes over the first `count` positions of another cache. */
void cache_copy(Cache *to, const Cache *from, const Transformer *transformer, int count);
/* Floats that one position takes in `keys`, and as many in `values`, over all layers. */
size_t cache_row(const Transformer *transformer);

void transformer_embed(const Transformer *transformer, const int32_t *ids, int count, float *out);
/* Appends up to CHUNK positions to the cache; `x` is their embeddings and becomes their last hidden states. */
void transformer_forward(Transformer *transformer, Cache *cache, const int32_t *ids, float *x, int count);
void transformer_logits(const Transformer *transformer, const float *hidden, int count, float *out);

#endif
