/* The engine itself, and what is asked of it besides runs. */
#include <stdlib.h>

#include "state.h"

/* Making and unmaking. */

Engine *engine_new(Container *container, const EngineConfig *config) {
    Engine *engine = calloc(1, sizeof *engine);
    engine->container = *container;
    engine->config = *config;
    engine->tokenizer = tokenizer_new(&engine->container);
    engine->transformer = transformer_new(&engine->container, config->max_context);
    chat_init(&engine->chat, &engine->container.chat, !config->embedded_template);
    uint64_t seed = config->options.has_seed ? config->options.seed : (uint64_t)(now_ms() * 1e6) ^ (uintptr_t)engine;
    engine->slots = calloc(config->slots, sizeof *engine->slots);
    engine->outputs = calloc(config->slots, sizeof *engine->outputs);
    for (int i = 0; i < config->slots; i++) {
        Slot *slot = &engine->slots[i];
        cache_init(&slot->cache, engine->transformer, config->max_context);
        sampler_seed(&slot->sampler, seed + i);
        slot->text = malloc(speech_size(&engine->container));
    }
    gate_init(&engine->gate, &engine->config.options);
    return engine;
}

int engine_free(Engine *engine) {
    if (!gate_close(&engine->gate)) return -1;
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
    gate_destroy(&engine->gate);
    free(engine);
    return 0;
}

int engine_hidden(const Engine *engine) { return transformer_hidden(engine->transformer); }
int engine_vocabulary(const Engine *engine) { return transformer_vocabulary(engine->transformer); }
int engine_slots(const Engine *engine) { return engine->config.slots; }

/* During a run. */

int engine_abort(Engine *engine) { return gate_abort(&engine->gate); }
bool engine_is_running(Engine *engine) { return gate_is_running(&engine->gate); }

int engine_cache_sizes(Engine *engine, int *sizes) {
    for (int i = 0; i < engine->config.slots; i++) sizes[i] = engine->slots[i].cache.used;
    return 0;
}

/* Between runs. */

int engine_set_template(Engine *engine, const char *system, const char *prefix, const char *postfix) {
    if (!gate_enter(&engine->gate, "rkllm_set_chat_template")) return -1;
    chat_set(&engine->chat, system, prefix, postfix);
    gate_leave(&engine->gate);
    return 0;
}

int engine_set_tools(Engine *engine, const char *system, const char *tools, const char *tag) {
    if (!tools) return -1;
    if (!gate_enter(&engine->gate, "rkllm_set_function_tools")) return -1;
    chat_set_tools(&engine->chat, &engine->container.chat, system, tools, tag);
    gate_leave(&engine->gate);
    return 0;
}
