#include "engine.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "chat.h"
#include "tokenizer.h"
#include "transformer.h"

/* The last row of Qwen2.5's padded output layer, which a real board was seen to emit without end. */
enum { CORRUPT_ID = 151935 };
static const char CORRUPT_TEXT[] = "[PAD151935]";
static const char STALE_TEXT[] = "<standin: text read after its callback>";

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
    size_t text_size;
    bool has_history, is_paused;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Guarded by `lock`. Finishing: the last callback of a run is under way, the run itself is over. */
    bool is_busy, is_finishing, abort_wanted, has_thread;
    double abort_from;
    pthread_t runner, thread;
};

typedef struct {
    Engine *engine;
    Job *job;
} Background;

void log_info(const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    fputs("I rkllm: ", stdout);
    vprintf(format, rest);
    putchar('\n');
    fflush(stdout);
    va_end(rest);
}

int log_error(const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    fputs("E rkllm: ", stderr);
    vfprintf(stderr, format, rest);
    fputc('\n', stderr);
    va_end(rest);
    return -1;
}

static double now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

/* Making and unmaking. */

Engine *engine_new(Container *container, const EngineConfig *config) {
    Engine *engine = calloc(1, sizeof *engine);
    engine->container = *container;
    engine->config = *config;
    engine->tokenizer = tokenizer_new(&engine->container);
    engine->transformer = transformer_new(&engine->container, config->max_context);
    chat_init(&engine->chat, &engine->container.chat, !config->embedded_template);
    engine->text_size = sizeof STALE_TEXT;
    for (uint32_t i = 0; i < container->n_tokens; i++) {
        size_t needed = container->tokens[i].text.length + sizeof engine->slots->held + 1;
        if (needed > engine->text_size) engine->text_size = needed;
    }
    uint64_t seed = config->options.has_seed ? config->options.seed : (uint64_t)(now_ms() * 1e6) ^ (uintptr_t)engine;
    engine->slots = calloc(config->slots, sizeof *engine->slots);
    engine->outputs = calloc(config->slots, sizeof *engine->outputs);
    for (int i = 0; i < config->slots; i++) {
        Slot *slot = &engine->slots[i];
        cache_init(&slot->cache, engine->transformer, config->max_context);
        sampler_seed(&slot->sampler, seed + i);
        slot->text = malloc(engine->text_size);
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&engine->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&engine->lock, NULL);
    return engine;
}

static void slot_forget_input(Slot *slot) {
    free(slot->ids);
    free(slot->vectors);
    free(slot->hidden);
    free(slot->logits);
    slot->ids = NULL;
    slot->vectors = slot->hidden = slot->logits = NULL;
}

static void engine_release(Engine *engine) {
    for (int i = 0; i < engine->config.slots; i++) {
        slot_forget_input(&engine->slots[i]);
        cache_free(&engine->slots[i].cache);
        free(engine->slots[i].text);
    }
    free(engine->slots);
    free(engine->outputs);
    cache_free(&engine->stored);
    chat_free(&engine->chat);
    transformer_free(engine->transformer);
    tokenizer_free(engine->tokenizer);
    container_free(&engine->container);
    pthread_cond_destroy(&engine->changed);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

void job_free(Job *job, int slots) {
    for (int i = 0; i < slots; i++) {
        free(job->inputs[i].text);
        free(job->inputs[i].ids);
        free(job->inputs[i].vectors);
    }
    free(job->inputs);
    free(job->save_cache_to);
    free(job);
}

/* One at a time. */

static int complain(Engine *engine, const char *what) {
    fprintf(stderr, "standin: RE-ENTRY %s while a run is in progress on this handle\n", what);
    if (engine->config.options.abort_on_reentry) abort();
    return -1;
}

/* A caller that was just told FINISH may be faster than the return from its own callback: it waits for that. */
static void await_finishing(Engine *engine) {
    while (engine->is_finishing && !pthread_equal(engine->runner, pthread_self()))
        pthread_cond_wait(&engine->changed, &engine->lock);
}

static bool enter(Engine *engine, const char *what) {
    pthread_mutex_lock(&engine->lock);
    await_finishing(engine);
    if (engine->is_busy) {
        pthread_mutex_unlock(&engine->lock);
        complain(engine, what);
        return false;
    }
    engine->is_busy = true;
    engine->abort_wanted = false;
    engine->runner = pthread_self();
    if (engine->has_thread) pthread_join(engine->thread, NULL); /* it has let go of everything */
    engine->has_thread = false;
    pthread_mutex_unlock(&engine->lock);
    return true;
}

static void leave(Engine *engine) {
    pthread_mutex_lock(&engine->lock);
    engine->is_busy = engine->is_finishing = false;
    pthread_cond_broadcast(&engine->changed);
    pthread_mutex_unlock(&engine->lock);
}

int engine_abort(Engine *engine) {
    pthread_mutex_lock(&engine->lock);
    bool running = engine->is_busy && !engine->is_finishing;
    if (running && !engine->abort_wanted) {
        const Options *options = &engine->config.options;
        engine->abort_wanted = true;
        engine->abort_from = now_ms() + (options_fault(options, FAULT_SLOW_ABORT) ? options->fault_at : 0);
        pthread_cond_broadcast(&engine->changed);
    }
    pthread_mutex_unlock(&engine->lock);
    return running ? 0 : -1;
}

bool engine_is_running(Engine *engine) {
    pthread_mutex_lock(&engine->lock);
    bool running = engine->is_busy && !engine->is_finishing;
    pthread_mutex_unlock(&engine->lock);
    return running;
}

static bool is_aborted(Engine *engine) {
    pthread_mutex_lock(&engine->lock);
    bool aborted = engine->abort_wanted && now_ms() >= engine->abort_from;
    pthread_mutex_unlock(&engine->lock);
    return aborted;
}

/* Returns at that moment, or as soon as an abort takes effect. */
static void wait_until(Engine *engine, double moment) {
    pthread_mutex_lock(&engine->lock);
    for (double now; (now = now_ms()) < moment;) {
        if (engine->abort_wanted && now >= engine->abort_from) break;
        double next = engine->abort_wanted && engine->abort_from < moment ? engine->abort_from : moment;
        struct timespec until = {.tv_sec = next / 1e3};
        until.tv_nsec = (next - until.tv_sec * 1e3) * 1e6;
        pthread_cond_timedwait(&engine->changed, &engine->lock, &until);
    }
    pthread_mutex_unlock(&engine->lock);
}

static void crash(void) {
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
}

static void hang(void) {
    for (;;) pause();
}

/* Speaking. */

/* Hands the outputs out and then spoils what they point to, so that whoever kept a pointer finds out. */
static Verdict say(Engine *engine, Emission emission, const Job *job) {
    if (emission == EMIT_FINISH || emission == EMIT_ERROR) {
        pthread_mutex_lock(&engine->lock);
        engine->is_finishing = true;
        pthread_mutex_unlock(&engine->lock);
    }
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

static void clear_outputs(Engine *engine) {
    for (int i = 0; i < engine->config.slots; i++) engine->outputs[i] = (Output){.token = -1};
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

/* The text that can be shown once this token is known, or NULL while a character is incomplete. */
static const char *spell(Engine *engine, Slot *slot, int32_t token) {
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

/* Reading the input. */

static int common(const Cache *cache, const int32_t *ids, int count) {
    int same = 0;
    while (same < cache->used && same < count && cache->tokens[same] == ids[same]) same++;
    return same;
}

static int32_t *tokens_of(Engine *engine, const char *text, int *count) {
    const EngineConfig *config = &engine->config;
    if (!config->tokenize) return tokenizer_encode(engine->tokenizer, text, strlen(text), count);
    int32_t *ids = malloc((config->max_context + 1) * sizeof *ids);
    *count = config->tokenize(config->owner, text, strlen(text), ids, config->max_context + 1);
    return ids;
}

/* Turns the input into ids or vectors and decides where in the cache it begins. */
static int take_in(Engine *engine, Slot *slot, Input *input, bool continues) {
    Cache *cache = &slot->cache;
    slot_forget_input(slot);
    slot->first = slot->evaluated = slot->generated = slot->n_held = 0;
    slot->done = false;
    slot->count = input->count;
    if (input->kind == INPUT_TEXT) {
        Place place = !continues || !cache->used ? AFTER_NOTHING : slot->has_answered ? AFTER_ANSWER : AFTER_SYSTEM;
        char *text = engine->is_paused
                         ? strdup(input->text)
                         : chat_render(&engine->chat, input->text, place, input->is_tool_answer, input->thinking);
        slot->ids = tokens_of(engine, text, &slot->count);
        free(text);
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
    int held = continues ? cache->used : 0;
    if (held + slot->count > engine->config.max_context)
        return log_error("prompt of %d tokens after %d in the cache exceeds max_context_len[%d]", slot->count, held,
                         engine->config.max_context);
    if (continues) return 0;

    slot->has_answered = false;
    if (slot->ids) {
        int stored = common(&engine->stored, slot->ids, slot->count - 1);
        if (engine->config.reuse_prefix) slot->first = common(cache, slot->ids, slot->count - 1);
        else if (stored < engine->stored.used) stored = 0; /* all of it, or nothing */
        if (stored > slot->first) cache_copy(cache, &engine->stored, engine->transformer, slot->first = stored);
    }
    cache->used = slot->first;
    return 0;
}

/* Computing. */

static int embed(Engine *engine, int32_t *ids, int count, float *out) {
    const EngineConfig *config = &engine->config;
    uint64_t bytes = (uint64_t)count * engine_hidden(engine) * sizeof(float);
    if (config->embed) return config->embed(config->owner, ids, count, out, bytes);
    transformer_embed(engine->transformer, ids, count, out);
    return 0;
}

/* Evaluates the slot's input. Returns -1 on an error; an abort shows in what was evaluated. */
static int prefill(Engine *engine, Slot *slot, Mode mode) {
    int wide = engine_hidden(engine), vocabulary = engine_vocabulary(engine), todo = slot->count - slot->first;
    int rows = mode == MODE_GENERATE ? 1 : todo;
    float *x = malloc((size_t)CHUNK * wide * sizeof(float));
    int result = 0;
    slot->hidden = malloc((size_t)rows * wide * sizeof(float));
    for (int at = slot->first; at < slot->count && !is_aborted(engine);) {
        int count = slot->count - at < CHUNK ? slot->count - at : CHUNK;
        if (slot->ids) result = embed(engine, slot->ids + at, count, x);
        else memcpy(x, slot->vectors + (size_t)at * wide, (size_t)count * wide * sizeof(float));
        if (result) {
            log_error("the embedding callback failed with %d", result);
            break;
        }
        transformer_forward(engine->transformer, &slot->cache, slot->ids ? slot->ids + at : NULL, x, count);
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
    return result ? -1 : 0;
}

static void evaluate(Engine *engine, Slot *slot, int32_t token) {
    bool is_corrupt = token == CORRUPT_ID;
    int32_t id = is_corrupt ? 0 : token;
    if (embed(engine, &id, 1, slot->hidden)) transformer_embed(engine->transformer, &id, 1, slot->hidden);
    transformer_forward(engine->transformer, &slot->cache, &id, slot->hidden, 1);
    if (is_corrupt) slot->cache.tokens[slot->cache.used - 1] = -1;
    transformer_logits(engine->transformer, slot->hidden, 1, slot->logits);
}

static bool is_end(const Engine *engine, int32_t token) {
    for (uint32_t i = 0; i < engine->container.n_ends; i++)
        if ((int32_t)engine->container.ends[i] == token) return !engine->config.ignore_end;
    return false;
}

static int32_t choose(Engine *engine, Slot *slot, const Sampling *sampling) {
    const Cache *cache = &slot->cache;
    int recent = cache->used < PENALTY_WINDOW ? cache->used : PENALTY_WINDOW;
    return sampler_choose(&slot->sampler, sampling, slot->logits, engine_vocabulary(engine),
                          cache->tokens + cache->used - recent, recent);
}

/* Runs. */

typedef enum { ENDED, PAUSED, FAILED } Outcome;

static Outcome decode(Engine *engine, const Job *job) {
    const Options *options = &engine->config.options;
    double started = now_ms();
    bool is_corrupt = false;
    for (int step = 0;; step++) {
        if (options->fault_at == step) {
            if (options_fault(options, FAULT_CRASH_DECODE)) crash();
            if (options_fault(options, FAULT_HANG_DECODE)) hang();
            if (options_fault(options, FAULT_CORRUPT_IDS)) is_corrupt = true;
            if (options_fault(options, FAULT_MATMUL)) {
                log_error("matmul(w8a8) run failed");
                return FAILED;
            }
        }
        bool is_speaking = false, is_waiting = true;
        clear_outputs(engine);
        for (int i = 0; i < engine->config.slots; i++) {
            Slot *slot = &engine->slots[i];
            if (slot->done) continue;
            int32_t token = is_corrupt ? CORRUPT_ID : choose(engine, slot, &job->sampling);
            if ((slot->done = is_end(engine, token))) continue;
            engine->outputs[i] = (Output){.token = token, .text = spell(engine, slot, token)};
            is_speaking = true;
            is_waiting = is_waiting && !engine->outputs[i].text;
            slot->generated++;
            slot->has_answered = true;
        }
        if (!is_speaking || is_aborted(engine)) return ENDED;
        Verdict verdict = say(engine, is_waiting ? EMIT_WAITING : EMIT_TOKEN, job);
        if (is_aborted(engine)) return ENDED;
        for (int i = 0; i < engine->config.slots; i++) {
            Slot *slot = &engine->slots[i];
            if (slot->done) continue;
            if (slot->cache.used < slot->cache.capacity) evaluate(engine, slot, engine->outputs[i].token);
            else slot->done = true;
            if (job->max_new_tokens > 0 && slot->generated >= job->max_new_tokens) slot->done = true;
        }
        wait_until(engine, started + (step + 1) * options->pace.token_ms);
        if (is_aborted(engine)) return ENDED;
        if (verdict == VERDICT_PAUSE) return PAUSED;
    }
}

static void save_cache(Engine *engine, const char *path);

static double prefill_pace_ms(const Engine *engine) {
    double total = 0;
    for (int i = 0; i < engine->config.slots; i++) {
        const Slot *slot = &engine->slots[i];
        int from = slot->cache.used;
        total += pace_prefill_ms(&engine->config.options.pace, from, from + slot->count - slot->first);
    }
    return total;
}

static Outcome answer(Engine *engine, Job *job, double *prefill_ms) {
    const Options *options = &engine->config.options;
    double started = now_ms();
    bool continues = engine->is_paused || (job->keep_history && engine->has_history);
    for (int i = 0; i < engine->config.slots; i++)
        if (take_in(engine, &engine->slots[i], &job->inputs[i], continues)) return FAILED;
    engine->is_paused = false;
    engine->has_history = job->keep_history;
    if (options_fault(options, FAULT_CRASH_PREFILL)) crash();
    if (options_fault(options, FAULT_HANG_PREFILL)) hang();

    double due = started + prefill_pace_ms(engine);
    for (int i = 0; i < engine->config.slots; i++)
        if (prefill(engine, &engine->slots[i], job->mode)) return FAILED;
    wait_until(engine, due);
    *prefill_ms = now_ms() - started;
    if (is_aborted(engine)) return ENDED;
    if (job->save_cache_to) save_cache(engine, job->save_cache_to);
    if (job->mode == MODE_GENERATE) return decode(engine, job);

    clear_outputs(engine);
    for (int i = 0; i < engine->config.slots; i++) {
        Slot *slot = &engine->slots[i];
        bool is_hidden = job->mode == MODE_HIDDEN;
        engine->outputs[i] = (Output){.token = -1,
                                      .hidden = is_hidden ? slot->hidden : NULL,
                                      .logits = is_hidden ? NULL : slot->logits,
                                      .positions = slot->evaluated};
    }
    say(engine, EMIT_STATES, job);
    return ENDED;
}

static float memory_mb(const Engine *engine) {
    if (engine->config.options.pace.memory_mb > 0) return engine->config.options.pace.memory_mb;
    size_t cache = 2 * cache_row(engine->transformer) * engine->config.max_context * sizeof(float);
    return (transformer_bytes(engine->transformer) + cache * engine->config.slots) / 1e6;
}

/* Runs the job on this thread, which has entered. */
static int perform(Engine *engine, Job *job) {
    double started = now_ms(), prefill_ms = 0;
    Outcome outcome = answer(engine, job, &prefill_ms);
    double generate_ms = prefill_ms > 0 ? now_ms() - started - prefill_ms : 0;

    pthread_mutex_lock(&engine->lock);
    double abort_from = engine->abort_wanted ? engine->abort_from : 0;
    pthread_mutex_unlock(&engine->lock);
    wait_until(engine, abort_from); /* slow to notice, even if the answer was at its end */

    clear_outputs(engine);
    for (int i = 0; i < engine->config.slots; i++)
        engine->outputs[i].performance = (Performance){prefill_ms, generate_ms, memory_mb(engine),
                                                       engine->slots[i].evaluated, engine->slots[i].generated};
    if (outcome == PAUSED) engine->is_paused = true;
    else say(engine, outcome == ENDED ? EMIT_FINISH : EMIT_ERROR, job);
    job_free(job, engine->config.slots);
    leave(engine);
    return outcome == FAILED ? -1 : 0;
}

int engine_run(Engine *engine, Job *job) {
    if (enter(engine, "rkllm_run")) return perform(engine, job);
    job_free(job, engine->config.slots);
    return -1;
}

static void *in_background(void *given) {
    Background background = *(Background *)given;
    free(given);
    pthread_mutex_lock(&background.engine->lock);
    background.engine->runner = pthread_self();
    pthread_mutex_unlock(&background.engine->lock);
    perform(background.engine, background.job);
    return NULL;
}

int engine_run_async(Engine *engine, Job *job) {
    if (!enter(engine, "rkllm_run_async")) {
        job_free(job, engine->config.slots);
        return -1;
    }
    Background *background = malloc(sizeof *background);
    *background = (Background){engine, job};
    pthread_mutex_lock(&engine->lock);
    engine->has_thread = !pthread_create(&engine->thread, NULL, in_background, background);
    bool has_started = engine->has_thread;
    pthread_mutex_unlock(&engine->lock);
    if (has_started) return 0;
    free(background);
    job_free(job, engine->config.slots);
    leave(engine);
    return log_error("no thread could be started");
}

int engine_free(Engine *engine) {
    pthread_mutex_lock(&engine->lock);
    await_finishing(engine);
    bool was_busy = engine->is_busy, is_own = was_busy && pthread_equal(engine->runner, pthread_self());
    pthread_mutex_unlock(&engine->lock);
    if (was_busy) complain(engine, "rkllm_destroy");
    if (is_own) return -1; /* inside a callback: it would wait for itself */
    engine_abort(engine);
    pthread_mutex_lock(&engine->lock);
    while (engine->is_busy) pthread_cond_wait(&engine->changed, &engine->lock);
    pthread_mutex_unlock(&engine->lock);
    if (engine->has_thread) pthread_join(engine->thread, NULL);
    engine_release(engine);
    return 0;
}

/* Between runs. */

int engine_set_template(Engine *engine, const char *system, const char *prefix, const char *postfix) {
    if (!enter(engine, "rkllm_set_chat_template")) return -1;
    chat_set(&engine->chat, system, prefix, postfix);
    leave(engine);
    return 0;
}

int engine_set_tools(Engine *engine, const char *system, const char *tools, const char *tag) {
    if (!tools) return -1;
    if (!enter(engine, "rkllm_set_function_tools")) return -1;
    chat_set_tools(&engine->chat, &engine->container.chat, system, tools, tag);
    leave(engine);
    return 0;
}

static void forget_past(Engine *engine) {
    engine->is_paused = false;
    for (int i = 0; i < engine->config.slots; i++) engine->slots[i].has_answered = false;
}

int engine_clear(Engine *engine, bool keep_system) {
    if (!enter(engine, "rkllm_clear_kv_cache")) return -1;
    int kept = 0;
    if (keep_system) {
        free(tokenizer_encode(engine->tokenizer, engine->chat.system, strlen(engine->chat.system), &kept));
        if (engine->config.n_keep > 0) kept = engine->config.n_keep;
    }
    for (int i = 0; i < engine->config.slots; i++)
        if (engine->slots[i].cache.used > kept) engine->slots[i].cache.used = kept;
    forget_past(engine);
    leave(engine);
    return 0;
}

/* What follows the gap has been rotated for its old positions, so it is evaluated anew. */
static int close_gap(Engine *engine, Slot *slot, int from, int to) {
    Cache *cache = &slot->cache;
    if (to > cache->used) to = cache->used;
    if (from < 0 || from > to) return log_error("no such range in the KV cache: [%d, %d)", from, to);
    int left = 0; /* up to an embedding: its numbers are gone, and what followed with it */
    int32_t *tail = malloc((cache->used - to + 1) * sizeof *tail);
    while (to + left < cache->used && cache->tokens[to + left] >= 0) {
        tail[left] = cache->tokens[to + left];
        left++;
    }
    cache->used = from;
    float *x = malloc((size_t)CHUNK * engine_hidden(engine) * sizeof(float));
    for (int at = 0; at < left; at += CHUNK) {
        int count = left - at < CHUNK ? left - at : CHUNK;
        if (embed(engine, tail + at, count, x)) break;
        transformer_forward(engine->transformer, cache, tail + at, x, count);
    }
    free(x);
    free(tail);
    return 0;
}

int engine_clear_ranges(Engine *engine, const int *from, const int *to) {
    if (!enter(engine, "rkllm_clear_kv_cache")) return -1;
    int result = 0;
    for (int i = 0; i < engine->config.slots; i++) result |= close_gap(engine, &engine->slots[i], from[i], to[i]);
    leave(engine);
    return result;
}

int engine_cache_sizes(Engine *engine, int *sizes) {
    for (int i = 0; i < engine->config.slots; i++) sizes[i] = engine->slots[i].cache.used;
    return 0;
}

/* Prompt-cache files: the first slot's tokens with their keys and values. */

static const char CACHE_MAGIC[8] = "EXOCACHE";

typedef struct {
    char magic[8];
    uint64_t row, vocabulary, used;
} CacheHeader;

static bool transfer(FILE *file, Cache *cache, size_t row, bool is_writing) {
    size_t used = cache->used, floats = used * row;
    struct {
        void *at;
        size_t size, count;
    } parts[] = {{cache->tokens, sizeof *cache->tokens, used},
                 {cache->keys, sizeof(float), floats},
                 {cache->values, sizeof(float), floats}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t done = is_writing ? fwrite(parts[i].at, parts[i].size, parts[i].count, file)
                                 : fread(parts[i].at, parts[i].size, parts[i].count, file);
        if (done != parts[i].count) return false;
    }
    return true;
}

static void save_cache(Engine *engine, const char *path) {
    const Cache *from = &engine->slots[0].cache;
    Cache tight;
    cache_init(&tight, engine->transformer, from->used);
    cache_copy(&tight, from, engine->transformer, from->used);
    CacheHeader header = {.row = cache_row(engine->transformer),
                          .vocabulary = engine_vocabulary(engine),
                          .used = from->used};
    memcpy(header.magic, CACHE_MAGIC, sizeof CACHE_MAGIC);
    FILE *file = fopen(path, "wb");
    bool written = file && fwrite(&header, sizeof header, 1, file) == 1 && transfer(file, &tight, header.row, true);
    if (file && fclose(file)) written = false;
    if (!written) log_error("failed to save prompt cache to %s", path);
    cache_free(&tight);
}

static int read_cache(Engine *engine, const char *path) {
    CacheHeader header;
    FILE *file = fopen(path, "rb");
    if (!file) return log_error("failed to open prompt cache %s", path);
    bool fits = fread(&header, sizeof header, 1, file) == 1 && !memcmp(header.magic, CACHE_MAGIC, sizeof CACHE_MAGIC) &&
                header.row == cache_row(engine->transformer) &&
                header.vocabulary == (uint64_t)engine_vocabulary(engine) && header.used > 0 &&
                header.used <= (uint64_t)engine->config.max_context;
    if (fits) {
        cache_init(&engine->stored, engine->transformer, header.used);
        engine->stored.used = header.used;
        fits = transfer(file, &engine->stored, header.row, false);
        if (!fits) cache_free(&engine->stored);
    }
    fclose(file);
    return fits ? 0 : log_error("%s is no prompt cache of this model", path);
}

int engine_load_cache(Engine *engine, const char *path) {
    if (!enter(engine, "rkllm_load_prompt_cache")) return -1;
    int result = engine->stored.capacity ? log_error("a prompt cache is loaded; release it first")
                                         : read_cache(engine, path ? path : "");
    leave(engine);
    return result;
}

int engine_release_cache(Engine *engine) {
    if (!enter(engine, "rkllm_release_prompt_cache")) return -1;
    cache_free(&engine->stored);
    leave(engine);
    return 0;
}

int engine_hidden(const Engine *engine) { return transformer_hidden(engine->transformer); }
int engine_vocabulary(const Engine *engine) { return transformer_vocabulary(engine->transformer); }
int engine_slots(const Engine *engine) { return engine->config.slots; }
