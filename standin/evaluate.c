/* Computing: what goes into the model, and which token comes out. */
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "state.h"

static int embed(Engine *engine, int32_t *ids, int count, float *out) {
    const EngineConfig *config = &engine->config;
    uint64_t bytes = (uint64_t)count * engine_hidden(engine) * sizeof(float);
    if (config->embed) return config->embed(config->owner, ids, count, out, bytes);
    transformer_embed(engine->transformer, ids, count, out);
    return 0;
}

int forward_tokens(Engine *engine, Cache *cache, int32_t *ids, int count, float *x) {
    int code = embed(engine, ids, count, x);
    if (code) return log_error("the embedding callback failed with %d", code);
    transformer_forward(engine->transformer, cache, ids, x, count);
    return 0;
}

static void forward_vectors(Engine *engine, Cache *cache, const float *vectors, int count, float *x) {
    memcpy(x, vectors, (size_t)count * engine_hidden(engine) * sizeof(float));
    transformer_forward(engine->transformer, cache, NULL, x, count);
}

int slot_prefill(Engine *engine, Slot *slot, Mode mode) {
    int wide = engine_hidden(engine), vocabulary = engine_vocabulary(engine), todo = slot->count - slot->first;
    int rows = mode == MODE_GENERATE ? 1 : todo;
    float *x = malloc((size_t)CHUNK * wide * sizeof(float));
    int result = 0;
    slot->hidden = malloc((size_t)rows * wide * sizeof(float));
    for (int at = slot->first; at < slot->count && !gate_is_aborted(&engine->gate);) {
        int count = slot->count - at < CHUNK ? slot->count - at : CHUNK;
        if (slot->vectors) forward_vectors(engine, &slot->cache, slot->vectors + (size_t)at * wide, count, x);
        else if ((result = forward_tokens(engine, &slot->cache, slot->ids + at, count, x))) break;
        if (mode == MODE_GENERATE) memcpy(slot->hidden, x + (size_t)(count - 1) * wide, wide * sizeof(float));
        else memcpy(slot->hidden + (size_t)slot->evaluated * wide, x, (size_t)count * wide * sizeof(float));
        slot->evaluated += count;
        at += count;
    }
    free(x);
    if (mode != MODE_HIDDEN && slot->evaluated == todo) {
        slot->logits = malloc((size_t)rows * vocabulary * sizeof(float));
        transformer_logits(engine->transformer, slot->hidden, rows, slot->logits);
    }
    return result;
}

int slot_evaluate(Engine *engine, Slot *slot, int32_t token) {
    bool is_corrupt = token == CORRUPT_ID;
    int32_t id = is_corrupt ? 0 : token;
    if (forward_tokens(engine, &slot->cache, &id, 1, slot->hidden)) return -1;
    if (is_corrupt) slot->cache.tokens[slot->cache.used - 1] = -1;
    transformer_logits(engine->transformer, slot->hidden, 1, slot->logits);
    return 0;
}

int32_t slot_choose(Engine *engine, Slot *slot, const Sampling *sampling) {
    const Cache *cache = &slot->cache;
    int recent = cache->used < PENALTY_WINDOW ? cache->used : PENALTY_WINDOW;
    return sampler_choose(&slot->sampler, sampling, slot->logits, engine_vocabulary(engine),
                          cache->tokens + cache->used - recent, recent);
}
