/* What a run says: text out of tokens, handed out and then spoilt. */
#include <string.h>

#include "state.h"

static const char CORRUPT_TEXT[] = "[PAD151935]";
static const char STALE_TEXT[] = "<standin: text read after its callback>";

size_t speech_size(const Container *container) {
    size_t size = sizeof STALE_TEXT;
    for (uint32_t i = 0; i < container->n_tokens; i++) {
        size_t needed = container->tokens[i].text.length + sizeof((Slot *)0)->held + 1;
        if (needed > size) size = needed;
    }
    return size;
}

void clear_outputs(Engine *engine) {
    for (int i = 0; i < engine->config.slots; i++) engine->outputs[i] = (Output){.token = -1};
}

Verdict say(Engine *engine, Emission emission, const Job *job) {
    if (emission == EMIT_FINISH || emission == EMIT_ERROR) gate_finish(&engine->gate);
    Verdict verdict = engine->config.emit(engine->config.owner, emission, engine->outputs, engine->config.slots,
                                          job->userdata);
    for (int i = 0; i < engine->config.slots; i++) {
        const Output *output = &engine->outputs[i];
        memcpy(engine->slots[i].text, STALE_TEXT, sizeof STALE_TEXT);
        size_t positions = output->positions;
        if (output->hidden)
            memset(engine->slots[i].hidden, 0xFF, positions * engine_hidden(engine) * sizeof(float));
        if (output->logits)
            memset(engine->slots[i].logits, 0xFF, positions * engine_vocabulary(engine) * sizeof(float));
    }
    return verdict;
}

/* How many bytes at the end begin a character without ending it. */
static size_t unfinished(const char *text, size_t length) {
    for (size_t back = 1; back <= 3 && back <= length; back++) {
        unsigned char byte = text[length - back];
        if ((byte & 0xC0) == 0x80) continue;
        size_t whole = byte >= 0xF0 && byte < 0xF5 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC2 ? 2 : 1;
        return byte < 0xF5 && whole > back ? back : 0;
    }
    return 0;
}

const char *slot_spell(Engine *engine, Slot *slot, int32_t token) {
    if (token == CORRUPT_ID) return strcpy(slot->text, CORRUPT_TEXT);
    Token known = token < (int32_t)engine->container.n_tokens ? engine->container.tokens[token] : (Token){0};
    if (known.kind == TOKEN_CONTROL && engine->config.skip_special_token) return strcpy(slot->text, "");
    memcpy(slot->text, slot->held, slot->n_held);
    if (known.text.length) memcpy(slot->text + slot->n_held, known.text.bytes, known.text.length);
    size_t length = slot->n_held + known.text.length;
    slot->n_held = unfinished(slot->text, length);
    length -= slot->n_held;
    memcpy(slot->held, slot->text + length, slot->n_held);
    slot->text[length] = '\0';
    return length || !slot->n_held ? slot->text : NULL;
}
