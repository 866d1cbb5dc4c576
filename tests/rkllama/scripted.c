/* A runtime without a model: it says the prompt again, a byte at a time. What runtime.py hands to C can be
 * read in its variables, and what C may do to runtime.py is asked for in the prompt. */
#include "rkllm.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

RKLLMParam scripted_param;
RKLLMInferParam scripted_infer;
char scripted_role[16], scripted_texts[256], scripted_lora[64], scripted_cache[256];
int scripted_inside, scripted_reentries, scripted_aborts, scripted_alive, scripted_calls;
int scripted_thinking, scripted_refuse, scripted_drop_aborts, scripted_aborts_in_callback;
volatile int scripted_lingering, scripted_leave;
#if RELEASE >= 130
RKLLMSamplingParam scripted_sampling;
#endif

static LLMResultCallback callback;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int stop;
static float floats[6];
static _Thread_local int in_callback;
enum { PATIENCE = 20 }; /* seconds until a test that would hang fails */

typedef struct {
    LLMHandle handle;
    RKLLMInput *input;
    int code;
} Run;

static int stopped(int wait) {
    struct timespec until = {time(NULL) + PATIENCE, 0};
    pthread_mutex_lock(&gate);
    while (wait && !stop && !pthread_cond_timedwait(&changed, &gate, &until)) {
    }
    int now = stop;
    pthread_mutex_unlock(&gate);
    return now;
}

RKLLMParam rkllm_createDefaultParam(void) {
    RKLLMParam param;
    memset(&param, 0, sizeof param);
    param.max_context_len = 512;
    param.max_new_tokens = 77;
    param.top_k = 40;
    param.top_p = 0.5f;
    param.temperature = 0.75f;
    param.repeat_penalty = 1.5f;
    param.mirostat_tau = 5;
    return param;
}

#if RELEASE >= 130
int rkllm_init(LLMHandle *handle, RKLLMParam *param, RKLLMCallback *callbacks) {
    callback = callbacks->result_callback;
    if (callbacks->tokenizer_callback || callbacks->embed_callback)
        return -2;
#else
int rkllm_init(LLMHandle *handle, RKLLMParam *param, LLMResultCallback result_callback) {
    callback = result_callback;
#endif
    scripted_param = *param;
    if (strstr(param->model_path, "broken"))
        return -1;
    *handle = &scripted_param;
    scripted_alive++;
    return 0;
}

int rkllm_destroy(LLMHandle handle) {
    scripted_alive--;
    return scripted_refuse;
}

int rkllm_abort(LLMHandle handle) {
    pthread_mutex_lock(&gate);
    scripted_aborts++;
    scripted_aborts_in_callback += in_callback;
    if (scripted_drop_aborts)
        scripted_drop_aborts--;
    else
        stop = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&gate);
    return 0;
}

static void call(RKLLMResult *result, LLMCallState state) {
    in_callback = 1;
    callback(result, NULL, state);
    in_callback = 0;
}

static void say(LLMCallState state, const char *text, int id) {
    RKLLMResult result;
    memset(&result, 0, sizeof result);
    result.text = text;
    result.token_id = id;
    call(&result, state);
}

static void finish(int prompt, int answer) {
    RKLLMResult result;
    memset(&result, 0, sizeof result);
#if RELEASE >= 121
    result.perf = (RKLLMPerfStat){250, prompt, 1500, answer, 64};
#endif
    call(&result, RKLLM_RUN_FINISH);
}

/* Buffers are reused and freed as soon as the callback returns, as the vendor's are. */
static void echo(const char *prompt) {
    size_t length = strlen(prompt), said = 0, held = 0;
    char pending[8];
    for (; said < length && !stopped(0); said++) {
        pending[held++] = prompt[said];
        int more = said + 1 < length && (prompt[said + 1] & 0xC0) == 0x80;
        if (more) {
            say(RKLLM_RUN_WAITING, NULL, (unsigned char)prompt[said]);
            continue;
        }
        char *text = malloc(held + 1);
        memcpy(text, pending, held);
        text[held] = 0;
        held = 0;
        say(RKLLM_RUN_NORMAL, text, (unsigned char)prompt[said]);
        memset(text, '#', strlen(text));
        free(text);
    }
    finish(length, said);
}

static void batch(RKLLMInput *inputs, int count) {
    RKLLMResult results[8];
    for (int at = 0, going = 1; going; at++) {
        char texts[8][2];
        going = 0;
        memset(results, 0, sizeof results);
        for (int slot = 0; slot < count; slot++) {
            const char *prompt = inputs[slot].prompt_input;
            int over = at >= (int)strlen(prompt);
            going |= !over;
            texts[slot][0] = over ? 0 : prompt[at];
            texts[slot][1] = 0;
            results[slot].text = texts[slot];
            results[slot].token_id = over ? -1 : prompt[at];
        }
        if (going)
            call(results, RKLLM_RUN_NORMAL);
    }
    finish(count, count);
}

static void give_floats(int mode) {
    RKLLMResult result;
    memset(&result, 0, sizeof result);
    for (int at = 0; at < 6; at++)
        floats[at] = at + 0.5f;
    LLMCallState state = RKLLM_RUN_NORMAL;
    if (mode == RKLLM_INFER_GET_LAST_HIDDEN_LAYER) {
        result.last_hidden_layer = (RKLLMResultLastHiddenLayer){floats, 3, 2};
#if RELEASE < 120
        state = RKLLM_RUN_GET_LAST_HIDDEN_LAYER;
#endif
    }
#if RELEASE >= 120
    else
        result.logits = (RKLLMResultLogits){floats, 3, 2};
#endif
    call(&result, state);
    memset(floats, 0, sizeof floats);
    finish(1, 0);
}

static void *work(void *argument) {
    Run *run = argument;
    const char *prompt = run->input->prompt_input;
    int batches = 1;
#if RELEASE >= 121
    batches = scripted_param.extend_param.n_batch > 1 ? scripted_param.extend_param.n_batch : 1;
#endif
    if (run->input->input_type == RKLLM_INPUT_TOKEN) {
        RKLLMTokenInput *tokens = &run->input->token_input;
        for (size_t at = 0; at < tokens->n_tokens; at++)
            say(RKLLM_RUN_NORMAL, "t", tokens->input_ids[at]);
        finish(tokens->n_tokens, tokens->n_tokens);
    } else if (batches > 1)
        batch(run->input, batches);
    else if (scripted_infer.mode != RKLLM_INFER_GENERATE)
        give_floats(scripted_infer.mode);
    else if (!strcmp(prompt, "error"))
        say(RKLLM_RUN_ERROR, NULL, 0);
    else if (!strcmp(prompt, "code"))
        run->code = -7;
    else if (!strcmp(prompt, "null"))
        call(NULL, RKLLM_RUN_FINISH);
    else if (!strcmp(prompt, "wait")) { /* for an abort, after a first token */
        say(RKLLM_RUN_NORMAL, "w", 'w');
        stopped(1);
        say(RKLLM_RUN_NORMAL, "late", 1);
        finish(1, 1);
        run->code = -1;
    } else if (!strcmp(prompt, "prefill")) { /* long, and aborts are not heard during it */
        for (time_t until = time(NULL) + PATIENCE; !scripted_aborts && time(NULL) < until;)
            stopped(0);
        say(RKLLM_RUN_NORMAL, "p", 'p');
        stopped(1);
        finish(1, 1);
    } else if (!strcmp(prompt, "linger")) { /* over, but still in here */
        finish(1, 0);
        scripted_lingering = 1;
        for (time_t until = time(NULL) + PATIENCE; !scripted_leave && time(NULL) < until;)
            stopped(0);
        scripted_lingering = 0;
    } else
        echo(prompt);
    return NULL;
}

int rkllm_run(LLMHandle handle, RKLLMInput *input, RKLLMInferParam *infer, void *userdata) {
    if (scripted_inside++)
        scripted_reentries++;
    scripted_infer = *infer;
    scripted_lora[0] = scripted_cache[0] = 0;
    if (infer->lora_params)
        strcpy(scripted_lora, infer->lora_params->lora_adapter_name);
    if (infer->prompt_cache_params && infer->prompt_cache_params->save_prompt_cache == 1)
        strcpy(scripted_cache, infer->prompt_cache_params->prompt_cache_path);
#if RELEASE >= 121
    strcpy(scripted_role, input->role ? input->role : "");
    scripted_thinking = input->enable_thinking;
#endif
#if RELEASE >= 130
    scripted_sampling = *infer->sampling_params;
#endif
    stop = 0;
    Run run = {handle, input, 0};
    pthread_t thread; /* the vendor's too is called back on a thread of its own */
    pthread_create(&thread, NULL, work, &run);
    pthread_join(thread, NULL);
    scripted_inside--;
    return run.code;
}

int rkllm_run_async(LLMHandle handle, RKLLMInput *input, RKLLMInferParam *infer, void *userdata) { return -1; }
int rkllm_is_running(LLMHandle handle) { return 0; }

static int note(const char *what, const char *a, const char *b, const char *c) {
    scripted_calls += !scripted_refuse;
    strcpy(scripted_texts, what);
    const char *each[] = {a, b, c};
    for (int at = 0; at < 3; at++)
        if (each[at])
            strcat(strcat(scripted_texts, "|"), each[at]);
    return scripted_refuse;
}

int rkllm_load_lora(LLMHandle handle, RKLLMLoraAdapter *lora) {
    say(RKLLM_RUN_NORMAL, "of no run", 1);
    return lora->scale == 0.5f ? note("lora", lora->lora_adapter_path, lora->lora_adapter_name, NULL) : -1;
}
int rkllm_load_prompt_cache(LLMHandle handle, const char *path) { return note("load", path, NULL, NULL); }
int rkllm_release_prompt_cache(LLMHandle handle) { return note("release", NULL, NULL, NULL); }
#if RELEASE == 120
int rkllm_clear_kv_cache(LLMHandle handle, int keep) { return note("clear", keep ? "keep" : "all", NULL, NULL); }
#endif
#if RELEASE >= 120
int rkllm_set_chat_template(LLMHandle handle, const char *a, const char *b, const char *c) {
    return note("template", a, b, c);
}
#endif
#if RELEASE >= 121
int rkllm_clear_kv_cache(LLMHandle handle, int keep, int *from, int *to) {
    return from || to ? -1 : note("clear", keep ? "keep" : "all", NULL, NULL);
}
int rkllm_get_kv_cache_size(LLMHandle handle, int *sizes) {
    for (int at = 0; at < (scripted_param.extend_param.n_batch > 1 ? scripted_param.extend_param.n_batch : 1); at++)
        sizes[at] = 10 + at;
    return scripted_refuse;
}
int rkllm_set_function_tools(LLMHandle handle, const char *a, const char *b, const char *c) {
    return note("tools", a, b, c);
}
int rkllm_set_cross_attn_params(LLMHandle handle, RKLLMCrossAttnParam *params) { return -1; }
#endif
