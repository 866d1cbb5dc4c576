/* The state of an engine, and what its files do for each other; nobody else includes this.
 *
 * `engine.c` makes and unmakes, `run.c` carries a job out with the help of `input.c` (what is asked),
 * `evaluate.c` (computing) and `speech.c` (what is handed out). `window.c` decides what of the past stays in
 * the cache, `prompt_cache.c` reads and writes it. `gate.c`, apart from all this, lets one in at a time. */
#ifndef STANDIN_STATE_H
#define STANDIN_STATE_H

#include "chat.h"
#include "engine.h"
#include "gate.h"
#include "tokenizer.h"
#include "transformer.h"

/* The last row of Qwen2.5's padded output layer, which a real board was seen to emit without end. */
enum { CORRUPT_ID = 151935 };

typedef struct {
    Cache cache;
    bool has_answered;   /* since the cache was last empty */
    int32_t *ids;        /* the input of this run, or */
    float *vectors;
    int first, count;    /* input[first..count) is evaluated, at cache position `first` + base */
    float *hidden, *logits; /* of the last position; of all evaluated ones outside MODE_GENERATE */
    int evaluated, generated;
    bool done;
    SamplerState sampler;
    char held[8]; /* bytes of a character that is not whole yet */
    size_t n_held;
    char *text;
} Slot;

struct Engine {
    Container container;
    EngineConfig config;
    Tokenizer *tokenizer;
    Transformer *transformer;
    Chat chat;
    Slot *slots;
    Output *outputs;
    Cache stored; /* from a prompt-cache file; capacity 0 when there is none */
    bool has_history, is_paused;
    Gate gate;
};

/* input.c */
void slot_forget_input(Slot *slot);
/* The ids of a text, for the caller to free. NULL, with a line in the log, when it cannot be read. */
int32_t *tokens_of(Engine *engine, const char *text, int *count);
/* Turns the input into ids or vectors and decides where in the cache it begins. -1, with a line in the log. */
int slot_take_in(Engine *engine, Slot *slot, Input *input, bool continues);

/* evaluate.c */
/* Appends up to CHUNK tokens to a cache; `x` has room for their vectors and ends up with their last hidden
 * states. -1 when the caller's embedding failed, with a line in the log. */
int forward_tokens(Engine *engine, Cache *cache, int32_t *ids, int count, float *x);
/* Evaluates the slot's input. -1 on an error; an abort shows in how much was evaluated. */
int slot_prefill(Engine *engine, Slot *slot, Mode mode);
/* Evaluates the token that was chosen last, for which there must be room. -1 on an error. */
int slot_evaluate(Engine *engine, Slot *slot, int32_t token);
int32_t slot_choose(Engine *engine, Slot *slot, const Sampling *sampling);

/* speech.c */
/* Bytes that a slot's text takes at most. */
size_t speech_size(const Container *container);
/* The text that can be shown once this token is known, or NULL while a character is incomplete. */
const char *slot_spell(Engine *engine, Slot *slot, int32_t token);
void clear_outputs(Engine *engine);
/* Hands the outputs out and then spoils what they point to, so that whoever kept a pointer finds out. */
Verdict say(Engine *engine, Emission emission, const Job *job);

/* window.c */
typedef enum { HAS_ROOM, IS_FULL, FAILED_TO_SHIFT } Room;
/* Sees to it that `count` more positions fit: by shifting the window, where that is wanted and helps. */
Room slot_make_room(Engine *engine, Slot *slot, int count);

/* prompt_cache.c */
void save_prompt_cache(Engine *engine, const char *path);

#endif
