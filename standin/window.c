/* What of the past stays in the cache: clearing, and shifting a full window. */
#include <stdlib.h>

#include "log.h"
#include "state.h"

/* Takes positions [from, to) out. What follows the gap has been rotated for its old positions and has seen
 * what is gone, so it is evaluated anew; up to an embedding, whose numbers are not kept: it and what follows
 * it go, too. */
static int close_gap(Engine *engine, Cache *cache, int from, int to) {
    int left = 0, result = 0;
    int32_t *tail = malloc((cache->used - to + 1) * sizeof *tail);
    while (to + left < cache->used && cache->tokens[to + left] >= 0) {
        tail[left] = cache->tokens[to + left];
        left++;
    }
    cache->used = from;
    float *x = malloc((size_t)CHUNK * engine_hidden(engine) * sizeof(float));
    for (int at = 0; at < left && !result; at += CHUNK)
        result = forward_tokens(engine, cache, tail + at, left - at < CHUNK ? left - at : CHUNK, x);
    free(x);
    free(tail);
    return result;
}

/* Shifting. */

/* How many positions behind the first `kept` must go for `count` more to fit: the older half of the rest, and
 * again until it is enough. -1 when nothing is left to drop. */
static int surplus(const Cache *cache, int kept, int count) {
    int dropped = 0;
    while (cache->capacity - cache->used + dropped < count) {
        int rest = cache->used - dropped - kept;
        if (rest <= 0) return -1;
        dropped += (rest + 1) / 2;
    }
    return dropped;
}

Room slot_make_room(Engine *engine, Slot *slot, int count) {
    Cache *cache = &slot->cache;
    if (cache->capacity - cache->used >= count) return HAS_ROOM;
    if (!engine->config.options.shifts_when_full) return IS_FULL;
    int kept = engine->config.n_keep > 0 ? engine->config.n_keep : 0;
    int dropped = surplus(cache, kept, count);
    if (dropped < 0) return IS_FULL;
    return close_gap(engine, cache, kept, kept + dropped) ? FAILED_TO_SHIFT : HAS_ROOM;
}

/* Clearing. */

static int system_length(Engine *engine) {
    int count = 0;
    if (engine->config.n_keep > 0) return engine->config.n_keep;
    if (*engine->chat.system) free(tokens_of(engine, engine->chat.system, &count));
    return count;
}

int engine_clear(Engine *engine, bool keep_system) {
    if (!gate_enter(&engine->gate, "rkllm_clear_kv_cache")) return -1;
    int kept = keep_system ? system_length(engine) : 0;
    engine->is_paused = false;
    for (int i = 0; i < engine->config.slots; i++) {
        Slot *slot = &engine->slots[i];
        if (slot->cache.used > kept) slot->cache.used = kept;
        slot->has_answered = false;
    }
    gate_leave(&engine->gate);
    return 0;
}

static int clear_range(Engine *engine, Slot *slot, int from, int to) {
    if (to > slot->cache.used) to = slot->cache.used;
    if (from < 0 || from > to) return log_error("no such range in the KV cache: [%d, %d)", from, to);
    int result = from < to ? close_gap(engine, &slot->cache, from, to) : 0;
    if (!slot->cache.used) slot->has_answered = false;
    return result;
}

int engine_clear_ranges(Engine *engine, const int *from, const int *to) {
    if (!gate_enter(&engine->gate, "rkllm_clear_kv_cache")) return -1;
    int result = 0;
    if (!engine->is_paused || engine->has_history)
        result = log_error("a range of the KV cache can be cleared only while a run without history is paused");
    for (int i = 0; !result && i < engine->config.slots; i++)
        result = clear_range(engine, &engine->slots[i], from[i], to[i]);
    gate_leave(&engine->gate);
    return result;
}
