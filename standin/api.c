/* The vendor's functions of one release, over `engine.h`. */
#include "rkllm.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine.h"
#include "load.h"
#include "log.h"

#define HAS_TEMPLATE (STANDIN_RELEASE >= 10200)
#define HAS_BATCH (STANDIN_RELEASE >= 10201)
#define HAS_RUN_SAMPLING (STANDIN_RELEASE >= 10300)

typedef struct {
    Engine *engine;
    Sampling sampling;
    int max_new_tokens;
    RKLLMResult *results;
#if HAS_RUN_SAMPLING
    RKLLMCallback callbacks;
#else
    LLMResultCallback callback;
#endif
} Handle;

/* Several models in one process came with 1.2.2. */
static int live_handles;
static pthread_mutex_t live_lock = PTHREAD_MUTEX_INITIALIZER;

RKLLMParam rkllm_createDefaultParam(void) {
    RKLLMParam param;
    memset(&param, 0, sizeof param); /* padding too: what was written tells releases apart */
    param.max_context_len = 512;
    param.max_new_tokens = 256;
    param.top_k = 40;
    param.top_p = 0.9f;
    param.temperature = 0.8f;
    param.repeat_penalty = 1.1f;
    param.mirostat_tau = 5.0f;
    param.mirostat_eta = 0.1f;
    param.skip_special_token = true;
#if STANDIN_RELEASE >= 10200
    param.extend_param.enabled_cpus_num = 4;
    param.extend_param.enabled_cpus_mask = 0xF0;
#endif
#if HAS_BATCH
    param.extend_param.n_batch = 1;
#endif
    return param;
}

/* Results. */

static void fill(RKLLMResult *result, const Output *output, Emission emission, const Engine *engine) {
    memset(result, 0, sizeof *result);
    result->text = output->text;
    result->token_id = output->token;
    if (output->hidden)
        result->last_hidden_layer =
            (RKLLMResultLastHiddenLayer){output->hidden, engine_hidden(engine), output->positions};
#if STANDIN_RELEASE >= 10200
    if (output->logits)
        result->logits = (RKLLMResultLogits){output->logits, engine_vocabulary(engine), output->positions};
#endif
#if STANDIN_RELEASE >= 10201
    const Performance *measured = &output->performance;
    if (emission == EMIT_FINISH)
        result->perf = (RKLLMPerfStat){measured->prefill_ms, measured->prefill_tokens, measured->generate_ms,
                                       measured->generate_tokens, measured->memory_mb};
#else
    (void)emission;
#endif
}

static LLMCallState state_of(Emission emission) {
    switch (emission) {
    case EMIT_WAITING: return RKLLM_RUN_WAITING;
    case EMIT_FINISH: return RKLLM_RUN_FINISH;
    case EMIT_ERROR: return RKLLM_RUN_ERROR;
#if STANDIN_RELEASE < 10200
    case EMIT_STATES: return RKLLM_RUN_GET_LAST_HIDDEN_LAYER;
#endif
    default: return RKLLM_RUN_NORMAL;
    }
}

static Verdict emit(void *owner, Emission emission, const Output *outputs, int count, void *userdata) {
    Handle *handle = owner;
    for (int i = 0; i < count; i++) fill(&handle->results[i], &outputs[i], emission, handle->engine);
    int verdict = 0;
#if HAS_RUN_SAMPLING
    verdict = handle->callbacks.result_callback(handle->results, userdata, state_of(emission));
#elif STANDIN_RELEASE >= 10201
    verdict = handle->callback(handle->results, userdata, state_of(emission));
#else
    handle->callback(handle->results, userdata, state_of(emission));
#endif
    memset(handle->results, 0xDD, count * sizeof *handle->results);
    return verdict == 1 ? VERDICT_PAUSE : VERDICT_CONTINUE; /* 2, "release", is what happens anyway */
}

#if HAS_RUN_SAMPLING
static int tokenize(void *owner, const char *text, int length, int32_t *ids, int most) {
    const RKLLMCallback *callbacks = &((Handle *)owner)->callbacks;
    return callbacks->tokenizer_callback(callbacks->tokenizer_userdata, text, length, ids, most);
}

static int embed(void *owner, int32_t *ids, uint64_t count, void *out, uint64_t bytes) {
    const RKLLMCallback *callbacks = &((Handle *)owner)->callbacks;
    return callbacks->embed_callback(callbacks->embed_userdata, ids, count, out, bytes);
}
#endif

/* Init. */

static Sampling sampling_of(const RKLLMParam *param) {
    return (Sampling){param->top_k,             param->top_p,            param->temperature, param->repeat_penalty,
                      param->frequency_penalty, param->presence_penalty, param->mirostat,    param->mirostat_tau,
                      param->mirostat_eta};
}

static bool count_handle(int change) {
    pthread_mutex_lock(&live_lock);
    bool allowed = HAS_BATCH || change < 0 || !live_handles;
    if (allowed) live_handles += change;
    pthread_mutex_unlock(&live_lock);
    return allowed;
}

#if HAS_RUN_SAMPLING
int rkllm_init(LLMHandle *out, RKLLMParam *param, RKLLMCallback *callbacks) {
    bool has_callback = callbacks && callbacks->result_callback;
#else
int rkllm_init(LLMHandle *out, RKLLMParam *param, LLMResultCallback callback) {
    bool has_callback = callback;
#endif
    EngineConfig config = {0};
    Container container;
    if (!out || !param || !has_callback) return log_error("rkllm_init needs a handle, parameters and a callback");
    *out = NULL;
    if (!options_read(&config.options)) return -1;
    if (fault_strikes(&config.options.fault, FAULT_CRASH_INIT)) fault_crash();
    if (fault_strikes(&config.options.fault, FAULT_HANG_INIT)) fault_hang();
    if (fault_strikes(&config.options.fault, FAULT_INIT_FAIL)) return log_error("rkllm init failed");
    if (load_model(&container, param->model_path, param->max_context_len, STANDIN_RELEASE, &config.options)) return -1;
    if (!count_handle(1)) {
        container_free(&container);
        return log_error("this release runs one model in a process");
    }
    Handle *handle = calloc(1, sizeof *handle);
    config.max_context = param->max_context_len;
    config.slots = 1;
#if HAS_BATCH
    if (param->extend_param.n_batch > 1) config.slots = param->extend_param.n_batch;
#endif
#if HAS_TEMPLATE
    config.embedded_template = config.reuse_prefix = true;
    config.n_keep = param->n_keep;
#endif
    config.skip_special_token = param->skip_special_token;
    config.emit = emit;
    config.owner = handle;
#if HAS_RUN_SAMPLING
    config.ignore_end = param->ignore_eos_token;
    handle->callbacks = *callbacks;
    if (callbacks->tokenizer_callback) config.tokenize = tokenize;
    if (callbacks->embed_callback) config.embed = embed;
#else
    handle->callback = callback;
#endif
    handle->sampling = sampling_of(param);
    handle->max_new_tokens = param->max_new_tokens;
    handle->results = calloc(config.slots, sizeof *handle->results);
    handle->engine = engine_new(&container, &config);
    *out = handle;
    return 0;
}

int rkllm_destroy(LLMHandle of) {
    Handle *handle = of;
    if (!handle || engine_free(handle->engine)) return -1;
    free(handle->results);
    free(handle);
    count_handle(-1);
    return 0;
}

/* Runs. */

static void *duplicate(const void *from, size_t size) {
    void *made = malloc(size + 1);
    if (size) memcpy(made, from, size);
    return made;
}

/* Copies what the caller owns: it may be gone before an asynchronous run reads it. */
static int copy_input(Input *to, const RKLLMInput *from, const Engine *engine) {
    *to = (Input){.thinking = true};
#if STANDIN_RELEASE >= 10201
    to->thinking = from->enable_thinking;
    to->is_tool_answer = from->role && !strcmp(from->role, "tool");
    if (from->role && *from->role && !to->is_tool_answer && strcmp(from->role, "user"))
        return log_error("role %s is neither user nor tool", from->role);
#endif
    switch (from->input_type) {
    case RKLLM_INPUT_PROMPT:
        if (!from->prompt_input) return log_error("the prompt is NULL");
        to->kind = INPUT_TEXT;
        to->text = strdup(from->prompt_input);
        return 0;
    case RKLLM_INPUT_TOKEN:
        to->kind = INPUT_IDS;
        to->count = (int)from->token_input.n_tokens;
        to->ids = duplicate(from->token_input.input_ids, from->token_input.n_tokens * sizeof(int32_t));
        return 0;
    case RKLLM_INPUT_EMBED:
        to->kind = INPUT_VECTORS;
        to->count = (int)from->embed_input.n_tokens;
        to->vectors = duplicate(from->embed_input.embed,
                                from->embed_input.n_tokens * engine_hidden(engine) * sizeof(float));
        return 0;
    default: return log_error("this model takes no input of type %d", (int)from->input_type);
    }
}

static Mode mode_of(const RKLLMInferParam *param) {
    switch (param->mode) {
    case RKLLM_INFER_GET_LAST_HIDDEN_LAYER: return MODE_HIDDEN;
#if STANDIN_RELEASE >= 10200
    case RKLLM_INFER_GET_LOGITS: return MODE_LOGITS;
#endif
    default: return MODE_GENERATE;
    }
}

/* The caller's structs as a job, or NULL and a line in the log. */
static Job *job_of(const Handle *handle, const RKLLMInput *inputs, const RKLLMInferParam *param, void *userdata) {
    RKLLMInferParam defaults;
    int slots = engine_slots(handle->engine);
    memset(&defaults, 0, sizeof defaults);
    if (!param) param = &defaults;
    if (!inputs) {
        log_error("rkllm_run needs an input");
        return NULL;
    }
    if (param->lora_params) {
        log_error("no LoRA adapter is loaded");
        return NULL;
    }
    Job *job = calloc(1, sizeof *job);
    job->mode = mode_of(param);
    job->sampling = handle->sampling;
    job->max_new_tokens = handle->max_new_tokens;
#if HAS_RUN_SAMPLING
    job->userdata = userdata ? userdata : handle->callbacks.result_userdata;
#else
    job->userdata = userdata;
#endif
#if STANDIN_RELEASE >= 10200
    job->keep_history = param->keep_history;
#endif
#if HAS_RUN_SAMPLING
    const RKLLMSamplingParam *own = param->sampling_params;
    if (own)
        job->sampling = (Sampling){own->top_k,           own->top_p,           own->temperature,
                                   own->repeat_penalty,  own->frequency_penalty, own->presence_penalty,
                                   own->mirostat,        own->mirostat_tau,    own->mirostat_eta};
    if (param->max_new_tokens > 0) job->max_new_tokens = param->max_new_tokens;
#endif
    const RKLLMPromptCacheParam *cache = param->prompt_cache_params;
    if (cache && cache->save_prompt_cache && cache->prompt_cache_path)
        job->save_cache_to = strdup(cache->prompt_cache_path);
    job->inputs = calloc(slots, sizeof *job->inputs);
    for (int i = 0; i < slots; i++)
        if (copy_input(&job->inputs[i], &inputs[i], handle->engine)) {
            job_free(job, slots);
            return NULL;
        }
    return job;
}

int rkllm_run(LLMHandle of, RKLLMInput *input, RKLLMInferParam *param, void *userdata) {
    Handle *handle = of;
    Job *job = handle ? job_of(handle, input, param, userdata) : NULL;
    return job ? engine_run(handle->engine, job) : -1;
}

int rkllm_run_async(LLMHandle of, RKLLMInput *input, RKLLMInferParam *param, void *userdata) {
    Handle *handle = of;
    Job *job = handle ? job_of(handle, input, param, userdata) : NULL;
    return job ? engine_run_async(handle->engine, job) : -1;
}

int rkllm_abort(LLMHandle handle) { return handle ? engine_abort(((Handle *)handle)->engine) : -1; }

int rkllm_is_running(LLMHandle handle) {
    bool running = handle && engine_is_running(((Handle *)handle)->engine);
#if STANDIN_RELEASE >= 10300
    return running;
#else
    return !running; /* these headers say: 0 if a task is running */
#endif
}

/* The rest. */

int rkllm_load_lora(LLMHandle handle, RKLLMLoraAdapter *adapter) {
    (void)handle;
    return log_error("failed to load lora %s: this model takes none",
                     adapter && adapter->lora_adapter_path ? adapter->lora_adapter_path : "(null)");
}

int rkllm_load_prompt_cache(LLMHandle handle, const char *path) {
    return handle ? engine_load_cache(((Handle *)handle)->engine, path) : -1;
}

int rkllm_release_prompt_cache(LLMHandle handle) {
    return handle ? engine_release_cache(((Handle *)handle)->engine) : -1;
}

#if STANDIN_RELEASE >= 10200
int rkllm_set_chat_template(LLMHandle handle, const char *system, const char *prefix, const char *postfix) {
    return handle ? engine_set_template(((Handle *)handle)->engine, system, prefix, postfix) : -1;
}
#endif

#if STANDIN_RELEASE >= 10201
int rkllm_clear_kv_cache(LLMHandle handle, int keep_system_prompt, int *start_pos, int *end_pos) {
    if (!handle) return -1;
    Engine *engine = ((Handle *)handle)->engine;
    return start_pos && end_pos ? engine_clear_ranges(engine, start_pos, end_pos)
                                : engine_clear(engine, keep_system_prompt);
}

int rkllm_get_kv_cache_size(LLMHandle handle, int *cache_sizes) {
    return handle && cache_sizes ? engine_cache_sizes(((Handle *)handle)->engine, cache_sizes) : -1;
}

int rkllm_set_function_tools(LLMHandle handle, const char *system, const char *tools, const char *tag) {
    return handle ? engine_set_tools(((Handle *)handle)->engine, system, tools, tag) : -1;
}

int rkllm_set_cross_attn_params(LLMHandle handle, RKLLMCrossAttnParam *param) {
    (void)handle;
    (void)param;
    return log_error("this model has no cross attention");
}
#elif STANDIN_RELEASE >= 10200
int rkllm_clear_kv_cache(LLMHandle handle, int keep_system_prompt) {
    return handle ? engine_clear(((Handle *)handle)->engine, keep_system_prompt) : -1;
}
#endif
