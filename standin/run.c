/* A run, from its input to the last callback. */
#include <stdlib.h>

#include "log.h"
#include "state.h"

static bool is_end(const Engine *engine, int32_t token) {
    for (uint32_t i = 0; i < engine->container.n_ends; i++)
        if ((int32_t)engine->container.ends[i] == token) return !engine->config.ignore_end;
    return false;
}

typedef enum { ENDED, PAUSED, FAILED } Outcome;

/* Lets each slot choose its next token. False when all have ended. */
static bool choose_tokens(Engine *engine, const Job *job, bool is_corrupt) {
    bool is_speaking = false;
    clear_outputs(engine);
    for (int i = 0; i < engine->config.slots; i++) {
        Slot *slot = &engine->slots[i];
        if (slot->done) continue;
        int32_t token = is_corrupt ? CORRUPT_ID : slot_choose(engine, slot, &job->sampling);
        if ((slot->done = is_end(engine, token))) continue;
        engine->outputs[i] = (Output){.token = token, .text = slot_spell(engine, slot, token)};
        is_speaking = true;
        slot->generated++;
        slot->has_answered = true;
    }
    return is_speaking;
}

/* There is one state for all slots, so a batch never waits: a slot without text says that by itself. */
static Emission emission_of(const Engine *engine) {
    return engine->config.slots == 1 && !engine->outputs[0].text ? EMIT_WAITING : EMIT_TOKEN;
}

/* Evaluates what was handed out. False on an error. */
static bool evaluate_tokens(Engine *engine, const Job *job) {
    for (int i = 0; i < engine->config.slots; i++) {
        Slot *slot = &engine->slots[i];
        if (slot->done) continue;
        Room room = slot_make_room(engine, slot, 1);
        if (room == FAILED_TO_SHIFT) return false;
        if (room == IS_FULL) slot->done = true;
        else if (slot_evaluate(engine, slot, engine->outputs[i].token)) return false;
        if (job->max_new_tokens > 0 && slot->generated >= job->max_new_tokens) slot->done = true;
    }
    return true;
}

static Outcome decode(Engine *engine, const Job *job) {
    const Options *options = &engine->config.options;
    double started = now_ms();
    bool is_corrupt = false;
    for (int step = 0;; step++) {
        if (options->fault.at == step) {
            if (fault_strikes(&options->fault, FAULT_CRASH_DECODE)) fault_crash();
            if (fault_strikes(&options->fault, FAULT_HANG_DECODE)) fault_hang();
            if (fault_strikes(&options->fault, FAULT_CORRUPT_IDS)) is_corrupt = true;
            if (fault_strikes(&options->fault, FAULT_MATMUL)) {
                log_error("matmul(w8a8) run failed");
                return FAILED;
            }
        }
        if (!choose_tokens(engine, job, is_corrupt) || gate_is_aborted(&engine->gate)) return ENDED;
        Verdict verdict = say(engine, emission_of(engine), job);
        if (gate_is_aborted(&engine->gate)) return ENDED;
        if (!evaluate_tokens(engine, job)) return FAILED;
        gate_wait_until(&engine->gate, started + (step + 1) * options->pace.token_ms);
        if (gate_is_aborted(&engine->gate)) return ENDED;
        if (verdict == VERDICT_PAUSE) return PAUSED;
    }
}

static double prefill_pace_ms(const Engine *engine) {
    double total = 0;
    for (int i = 0; i < engine->config.slots; i++) {
        const Slot *slot = &engine->slots[i];
        int from = slot->cache.used;
        total += pace_prefill_ms(&engine->config.options.pace, from, from + slot->count - slot->first);
    }
    /* However few they are, all weights are read once. */
    double token_ms = engine->config.options.pace.token_ms;
    return total > token_ms ? total : token_ms;
}

static Outcome answer(Engine *engine, Job *job, double *prefill_ms) {
    const Options *options = &engine->config.options;
    double started = now_ms();
    bool continues = engine->is_paused || (job->keep_history && engine->has_history);
    for (int i = 0; i < engine->config.slots; i++)
        if (slot_take_in(engine, &engine->slots[i], &job->inputs[i], continues)) return FAILED;
    engine->is_paused = false;
    engine->has_history = job->keep_history;
    if (fault_strikes(&options->fault, FAULT_CRASH_PREFILL)) fault_crash();
    if (fault_strikes(&options->fault, FAULT_HANG_PREFILL)) fault_hang();

    double due = started + prefill_pace_ms(engine);
    for (int i = 0; i < engine->config.slots; i++)
        if (slot_prefill(engine, &engine->slots[i], job->mode)) return FAILED;
    gate_wait_until(&engine->gate, due);
    *prefill_ms = now_ms() - started;
    if (gate_is_aborted(&engine->gate)) return ENDED;
    if (job->save_cache_to) save_prompt_cache(engine, job->save_cache_to);
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

    gate_await_abort(&engine->gate); /* slow to notice, even if the answer was at its end */

    clear_outputs(engine);
    for (int i = 0; i < engine->config.slots; i++)
        engine->outputs[i].performance = (Performance){prefill_ms, generate_ms, memory_mb(engine),
                                                       engine->slots[i].evaluated, engine->slots[i].generated};
    if (outcome == PAUSED) engine->is_paused = true;
    else say(engine, outcome == ENDED ? EMIT_FINISH : EMIT_ERROR, job);
    job_free(job, engine->config.slots);
    gate_leave(&engine->gate);
    return outcome == FAILED ? -1 : 0;
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

int engine_run(Engine *engine, Job *job) {
    if (gate_enter(&engine->gate, "rkllm_run")) return perform(engine, job);
    job_free(job, engine->config.slots);
    return -1;
}

typedef struct {
    Engine *engine;
    Job *job;
} Background;

static void *in_background(void *given) {
    Background background = *(Background *)given;
    free(given);
    perform(background.engine, background.job);
    return NULL;
}

int engine_run_async(Engine *engine, Job *job) {
    if (!gate_enter(&engine->gate, "rkllm_run_async")) {
        job_free(job, engine->config.slots);
        return -1;
    }
    Background *background = malloc(sizeof *background);
    *background = (Background){engine, job};
    if (gate_hand_over(&engine->gate, in_background, background)) return 0;
    free(background);
    job_free(job, engine->config.slots);
    gate_leave(&engine->gate);
    return log_error("no thread could be started");
}
