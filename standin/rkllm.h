/* The vendor runtime's binary interface, as this project knows it: names and layouts by release.
 *
 * STANDIN_RELEASE is major * 10000 + minor * 100 + patch. 1.1.0 to 1.1.4 are alike, and so are 1.2.1 to
 * 1.2.3. Every size, offset, enumerator and prototype here is compared with tests/abi in the tests;
 * the sizes that tell releases apart are asserted below as well.
 */
#ifndef STANDIN_RKLLM_H
#define STANDIN_RKLLM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef STANDIN_RELEASE
#error "define STANDIN_RELEASE as 10104, 10200, 10203 or 10300"
#endif

#define RKLLM_API __attribute__((visibility("default")))

typedef void *LLMHandle;

typedef enum {
    RKLLM_RUN_NORMAL = 0,
    RKLLM_RUN_WAITING = 1,
    RKLLM_RUN_FINISH = 2,
    RKLLM_RUN_ERROR = 3,
#if STANDIN_RELEASE < 10200
    RKLLM_RUN_GET_LAST_HIDDEN_LAYER = 4,
#endif
} LLMCallState;

typedef enum {
    RKLLM_INPUT_PROMPT = 0,
    RKLLM_INPUT_TOKEN = 1,
    RKLLM_INPUT_EMBED = 2,
    RKLLM_INPUT_MULTIMODAL = 3,
} RKLLMInputType;

typedef enum {
    RKLLM_INFER_GENERATE = 0,
    RKLLM_INFER_GET_LAST_HIDDEN_LAYER = 1,
#if STANDIN_RELEASE >= 10200
    RKLLM_INFER_GET_LOGITS = 2,
#endif
} RKLLMInferMode;

/* What a handle is made with. */

typedef struct {
    int32_t base_domain_id;
#if STANDIN_RELEASE < 10200
    uint8_t reserved[112];
#else
    int8_t embed_flash;
    int8_t enabled_cpus_num;
    uint32_t enabled_cpus_mask;
#if STANDIN_RELEASE < 10201
    uint8_t reserved[106];
#else
    uint8_t n_batch;
    int8_t use_cross_attn;
    uint8_t reserved[104];
#endif
#endif
} RKLLMExtendParam;

typedef struct {
    const char *model_path;
    int32_t max_context_len;
    int32_t max_new_tokens;
    int32_t top_k;
#if STANDIN_RELEASE >= 10200
    int32_t n_keep;
#endif
    float top_p;
    float temperature;
    float repeat_penalty;
    float frequency_penalty;
    float presence_penalty;
    int32_t mirostat;
    float mirostat_tau;
    float mirostat_eta;
    bool skip_special_token;
#if STANDIN_RELEASE >= 10300
    bool ignore_eos_token;
#endif
    bool is_async;
#if STANDIN_RELEASE < 10300
    const char *img_start;
    const char *img_end;
    const char *img_content;
#endif
    RKLLMExtendParam extend_param;
} RKLLMParam;

typedef struct {
    const char *lora_adapter_path;
    const char *lora_adapter_name;
    float scale;
} RKLLMLoraAdapter;

/* What a run is given. */

typedef struct {
    float *embed;
    size_t n_tokens;
} RKLLMEmbedInput;

typedef struct {
    int32_t *input_ids;
    size_t n_tokens;
} RKLLMTokenInput;

#if STANDIN_RELEASE >= 10300
typedef struct {
    char *prompt;
    struct {
        float *image_embed;
        size_t n_image_tokens;
        size_t n_image;
        const char *image_start;
        const char *image_end;
        const char *image_content;
        size_t image_width;
        size_t image_height;
    } image;
    struct {
        float *video_embed;
        size_t n_frame_tokens;
        size_t n_frame_per_video;
        size_t n_video;
        const char *video_start;
        const char *video_end;
        const char *video_content;
        size_t frame_width;
        size_t frame_height;
    } video;
} RKLLMMultiModalInput;
#elif STANDIN_RELEASE >= 10201
typedef struct {
    char *prompt;
    float *image_embed;
    size_t n_image_tokens;
    size_t n_image;
    size_t image_width;
    size_t image_height;
} RKLLMMultiModalInput;
#else
typedef struct {
    char *prompt;
    float *image_embed;
    size_t n_image_tokens;
} RKLLMMultiModelInput;
#endif

typedef struct {
#if STANDIN_RELEASE >= 10201
    const char *role;
    bool enable_thinking;
#endif
    RKLLMInputType input_type;
    union {
        const char *prompt_input;
        RKLLMEmbedInput embed_input;
        RKLLMTokenInput token_input;
#if STANDIN_RELEASE >= 10201
        RKLLMMultiModalInput multimodal_input;
#else
        RKLLMMultiModelInput multimodal_input;
#endif
    };
} RKLLMInput;

typedef struct {
    const char *lora_adapter_name;
} RKLLMLoraParam;

typedef struct {
    int save_prompt_cache;
    const char *prompt_cache_path;
} RKLLMPromptCacheParam;

#if STANDIN_RELEASE >= 10201
typedef struct {
    float *encoder_k_cache;
    float *encoder_v_cache;
    float *encoder_mask;
    int32_t *encoder_pos;
    int num_tokens;
} RKLLMCrossAttnParam;
#endif

#if STANDIN_RELEASE >= 10300
typedef struct {
    int32_t top_k;
    float top_p;
    float temperature;
    float repeat_penalty;
    float frequency_penalty;
    float presence_penalty;
    int32_t mirostat;
    float mirostat_tau;
    float mirostat_eta;
} RKLLMSamplingParam;
#endif

typedef struct {
    RKLLMInferMode mode;
    RKLLMLoraParam *lora_params;
    RKLLMPromptCacheParam *prompt_cache_params;
#if STANDIN_RELEASE >= 10300
    RKLLMSamplingParam *sampling_params;
#endif
#if STANDIN_RELEASE >= 10200
    int keep_history;
#endif
#if STANDIN_RELEASE >= 10300
    int32_t max_new_tokens;
#endif
} RKLLMInferParam;

/* What a callback is given. */

typedef struct {
    const float *hidden_states;
    int embd_size;
    int num_tokens;
} RKLLMResultLastHiddenLayer;

#if STANDIN_RELEASE >= 10200
typedef struct {
    const float *logits;
    int vocab_size;
    int num_tokens;
} RKLLMResultLogits;
#endif

#if STANDIN_RELEASE >= 10201
typedef struct {
    float prefill_time_ms;
    int prefill_tokens;
    float generate_time_ms;
    int generate_tokens;
    float memory_usage_mb;
} RKLLMPerfStat;
#endif

typedef struct {
    const char *text;
    int32_t token_id;
    RKLLMResultLastHiddenLayer last_hidden_layer;
#if STANDIN_RELEASE >= 10200
    RKLLMResultLogits logits;
#endif
#if STANDIN_RELEASE >= 10201
    RKLLMPerfStat perf;
#endif
} RKLLMResult;

#if STANDIN_RELEASE >= 10201
typedef int (*LLMResultCallback)(RKLLMResult *, void *, LLMCallState);
#else
typedef void (*LLMResultCallback)(RKLLMResult *, void *, LLMCallState);
#endif

#if STANDIN_RELEASE >= 10300
typedef int (*LLMTokenizerCallback)(void *, const char *, int32_t, int32_t *, int32_t);
typedef int (*LLMGetEmbedCallback)(void *, int32_t *, uint64_t, void *, uint64_t);
typedef struct {
    LLMResultCallback result_callback;
    void *result_userdata;
    LLMTokenizerCallback tokenizer_callback;
    void *tokenizer_userdata;
    LLMGetEmbedCallback embed_callback;
    void *embed_userdata;
} RKLLMCallback;
#endif

/* What a library of the release exports: exactly this. */

RKLLM_API RKLLMParam rkllm_createDefaultParam(void);
#if STANDIN_RELEASE >= 10300
RKLLM_API int rkllm_init(LLMHandle *, RKLLMParam *, RKLLMCallback *);
#else
RKLLM_API int rkllm_init(LLMHandle *, RKLLMParam *, LLMResultCallback);
#endif
RKLLM_API int rkllm_load_lora(LLMHandle, RKLLMLoraAdapter *);
RKLLM_API int rkllm_load_prompt_cache(LLMHandle, const char *);
RKLLM_API int rkllm_release_prompt_cache(LLMHandle);
RKLLM_API int rkllm_destroy(LLMHandle);
RKLLM_API int rkllm_run(LLMHandle, RKLLMInput *, RKLLMInferParam *, void *);
RKLLM_API int rkllm_run_async(LLMHandle, RKLLMInput *, RKLLMInferParam *, void *);
RKLLM_API int rkllm_abort(LLMHandle);
RKLLM_API int rkllm_is_running(LLMHandle);
#if STANDIN_RELEASE >= 10201
RKLLM_API int rkllm_clear_kv_cache(LLMHandle, int, int *, int *);
RKLLM_API int rkllm_get_kv_cache_size(LLMHandle, int *);
RKLLM_API int rkllm_set_function_tools(LLMHandle, const char *, const char *, const char *);
RKLLM_API int rkllm_set_cross_attn_params(LLMHandle, RKLLMCrossAttnParam *);
#elif STANDIN_RELEASE >= 10200
RKLLM_API int rkllm_clear_kv_cache(LLMHandle, int);
#endif
#if STANDIN_RELEASE >= 10200
RKLLM_API int rkllm_set_chat_template(LLMHandle, const char *, const char *, const char *);
#endif

#if defined(__LP64__)
#if STANDIN_RELEASE >= 10300
#define STANDIN_SIZES(S) S(RKLLMParam, 184) S(RKLLMInput, 160) S(RKLLMInferParam, 40) S(RKLLMResult, 72) \
    S(RKLLMExtendParam, 120) S(RKLLMCallback, 48) S(RKLLMSamplingParam, 36)
#define STANDIN_EXTEND 60
#elif STANDIN_RELEASE >= 10201
#define STANDIN_SIZES(S) S(RKLLMParam, 208) S(RKLLMInput, 64) S(RKLLMInferParam, 32) S(RKLLMResult, 72) \
    S(RKLLMExtendParam, 120)
#define STANDIN_EXTEND 88
#elif STANDIN_RELEASE >= 10200
#define STANDIN_SIZES(S) S(RKLLMParam, 208) S(RKLLMInput, 32) S(RKLLMInferParam, 32) S(RKLLMResult, 48) \
    S(RKLLMExtendParam, 120)
#define STANDIN_EXTEND 88
#else
#define STANDIN_SIZES(S) S(RKLLMParam, 200) S(RKLLMInput, 32) S(RKLLMInferParam, 24) S(RKLLMResult, 32) \
    S(RKLLMExtendParam, 116)
#define STANDIN_EXTEND 80
#endif
#define STANDIN_ASSERT_SIZE(type, size) _Static_assert(sizeof(type) == (size), #type " is not " #size " bytes");
STANDIN_SIZES(STANDIN_ASSERT_SIZE)
_Static_assert(offsetof(RKLLMParam, extend_param) == STANDIN_EXTEND, "extend_param");
_Static_assert(offsetof(RKLLMInput, prompt_input) == (STANDIN_RELEASE >= 10201 ? 16 : 8), "the input's union");
#endif

#endif
