/* What a run is given, and where in the cache it goes. */
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "state.h"

void slot_forget_input(Slot *slot) {
    free(slot->ids);
    free(slot->vectors);
    free(slot->hidden);
    free(slot->logits);
    slot->ids = NULL;
    slot->vectors = slot->hidden = slot->logits = NULL;
}

/* Reading. */

int32_t *tokens_of(Engine *engine, const char *text, int *count) {
    const EngineConfig *config = &engine->config;
    *count = 0;
    if (!config->tokenize) {
        if (!fault_strikes(&config->options.fault, FAULT_NO_TOKENIZER))
            return tokenizer_encode(engine->tokenizer, text, strlen(text), count);
        log_error("Tokenizer is unavailable");
        return NULL;
    }
    int most = config->max_context + 1; /* one too many shows that there are too many */
    int32_t *ids = malloc(most * sizeof *ids);
    int found = config->tokenize(config->owner, text, strlen(text), ids, most);
    if (found >= 0 && found <= most) {
        *count = found;
        return ids;
    }
    log_error("the tokenizer callback answered %d for a buffer of %d", found, most);
    free(ids);
    return NULL;
}

/* Turns the input into the slot's ids or vectors. */
static int read_input(Engine *engine, Slot *slot, Input *input, bool continues) {
    slot->count = input->count;
    if (input->kind == INPUT_TEXT) {
        bool is_first = !continues || !slot->cache.used;
        Place place = is_first ? AFTER_NOTHING : slot->has_answered ? AFTER_ANSWER : AFTER_SYSTEM;
        char *text = engine->is_paused
                         ? strdup(input->text)
                         : chat_render(&engine->chat, input->text, place, input->is_tool_answer, input->thinking);
        slot->ids = tokens_of(engine, text, &slot->count);
        free(text);
        if (!slot->ids) return -1;
    } else if (input->kind == INPUT_IDS) {
        slot->ids = input->ids;
        input->ids = NULL;
    } else {
        slot->vectors = input->vectors;
        input->vectors = NULL;
    }
    if (slot->count <= 0) return log_error("the input is empty");
    for (int i = 0; slot->ids && i < slot->count; i++)
        if (slot->ids[i] < 0 || slot->ids[i] >= engine_vocabulary(engine))
            return log_error("input token %d is not in the vocabulary of %d", slot->ids[i], engine_vocabulary(engine));
    return 0;
}

/* Placing. */

static int common(const Cache *cache, const int32_t *ids, int count) {
    int same = 0;
    while (same < cache->used && same < count && cache->tokens[same] == ids[same]) same++;
    return same;
}

/* Begins the cache anew, with as much of it or of the stored one as begins the input, too. */
static void reuse(Engine *engine, Slot *slot) {
    Cache *cache = &slot->cache;
    slot->has_answered = false;
    if (slot->ids) {
        int stored = common(&engine->stored, slot->ids, slot->count - 1);
        if (engine->config.reuse_prefix) slot->first = common(cache, slot->ids, slot->count - 1);
        else if (stored < engine->stored.used) stored = 0; /* all of it, or nothing */
        if (stored > slot->first) cache_copy(cache, &engine->stored, engine->transformer, slot->first = stored);
    }
    cache->used = slot->first;
}

int slot_take_in(Engine *engine, Slot *slot, Input *input, bool continues) {
    slot_forget_input(slot);
    slot->first = slot->evaluated = slot->generated = slot->n_held = 0;
    slot->done = false;
    if (read_input(engine, slot, input, continues)) return -1;
    int held = continues ? slot->cache.used : 0;
    Room room = slot->count > engine->config.max_context ? IS_FULL
                : continues                              ? slot_make_room(engine, slot, slot->count)
                                                         : HAS_ROOM;
    if (room == IS_FULL)
        return log_error("prompt of %d tokens after %d in the cache exceeds max_context_len[%d]", slot->count, held,
                         engine->config.max_context);
    if (room == FAILED_TO_SHIFT) return -1;
    if (!continues) reuse(engine, slot);
    return 0;
}
