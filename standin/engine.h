/* One loaded model and its runs, without the vendor's structs: `api.c` translates.
 *
 * Theory of operation. An engine has one cache for each slot of its batch and runs one job at a time; whoever
 * calls in meanwhile is told off on stderr. A run works out what of its input the cache holds already,
 * evaluates the rest (prefill), and then alternates: choose a token per slot, hand them out through `emit`,
 * evaluate them. So every token handed out is in the cache, unless the run was aborted or the context was
 * full. A full context ends the run, or is shifted first, as the options say.
 *
 * With a pace, each step waits until the moment at which the board would have been done, counted from the
 * start of the phase: computing takes none of the board's time, and waits do not add up their lateness. */
#ifndef STANDIN_ENGINE_H
#define STANDIN_ENGINE_H

#include "container.h"
#include "options.h"
#include "sampler.h"

typedef enum { MODE_GENERATE, MODE_HIDDEN, MODE_LOGITS } Mode;
typedef enum { EMIT_TOKEN, EMIT_WAITING, EMIT_FINISH, EMIT_ERROR, EMIT_STATES } Emission;
typedef enum { VERDICT_CONTINUE, VERDICT_PAUSE } Verdict;

typedef struct {
    enum { INPUT_TEXT, INPUT_IDS, INPUT_VECTORS } kind;
    char *text;
    bool is_tool_answer, thinking;
    int32_t *ids;
    float *vectors;
    int count; /* of ids or vectors */
} Input;

typedef struct {
    Mode mode;
    bool keep_history;
    int max_new_tokens; /* 0 or less: until the context is full */
    Sampling sampling;
    char *save_cache_to; /* or NULL */
    Input *inputs;       /* one per slot */
    void *userdata;
} Job;

typedef struct {
    float prefill_ms, generate_ms, memory_mb;
    int prefill_tokens, generate_tokens;
} Performance;

/* What one slot has to say. All pointers die when `emit` returns. */
typedef struct {
    const char *text; /* NULL when there is none */
    int32_t token;    /* -1: this slot has nothing */
    const float *hidden, *logits;
    int positions; /* of hidden or logits */
    Performance performance;
} Output;

typedef struct Engine Engine;
typedef Verdict (*Emit)(void *owner, Emission emission, const Output *outputs, int count, void *userdata);
/* Both may be NULL. Answer how many tokens were written, and 0 for success. */
typedef int (*ForeignTokenizer)(void *owner, const char *text, int length, int32_t *ids, int most);
typedef int (*ForeignEmbedding)(void *owner, int32_t *ids, uint64_t count, void *out, uint64_t bytes);

typedef struct {
    int max_context, n_keep, slots;
    bool embedded_template;  /* text goes through the model's own chat template */
    bool reuse_prefix;       /* what the cache holds of a new prompt is not evaluated again */
    bool skip_special_token, ignore_end;
    Emit emit;
    ForeignTokenizer tokenize;
    ForeignEmbedding embed;
    void *owner;
    Options options;
} EngineConfig;

/* Takes the container over. */
Engine *engine_new(Container *container, const EngineConfig *config);
/* Aborts and awaits a run, with a complaint. -1 inside a callback of its own, where it cannot. */
int engine_free(Engine *engine);

/* Takes the job over and frees it. 0, or -1 after an error or a refusal. */
int engine_run(Engine *engine, Job *job);
int engine_run_async(Engine *engine, Job *job);
void job_free(Job *job, int slots);

/* These may be asked for at any time. */
int engine_abort(Engine *engine);
bool engine_is_running(Engine *engine);
int engine_cache_sizes(Engine *engine, int *sizes);

/* These are refused, with a complaint, while a run is in progress. */
int engine_set_template(Engine *engine, const char *system, const char *prefix, const char *postfix);
int engine_set_tools(Engine *engine, const char *system, const char *tools, const char *tag);
int engine_load_cache(Engine *engine, const char *path);
int engine_release_cache(Engine *engine);
int engine_clear(Engine *engine, bool keep_system);
/* Takes positions [from[slot], to[slot]) out of each slot's cache; only while a run without history is paused. */
int engine_clear_ranges(Engine *engine, const int *from, const int *to);

int engine_hidden(const Engine *engine);
int engine_vocabulary(const Engine *engine);
int engine_slots(const Engine *engine);

#endif
