/* Prompt-cache files: the first slot's tokens with their keys and values. */
#include <stdio.h>
#include <string.h>

#include "log.h"
#include "state.h"

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

void save_prompt_cache(Engine *engine, const char *path) {
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
    if (!gate_enter(&engine->gate, "rkllm_load_prompt_cache")) return -1;
    int result = engine->stored.capacity ? log_error("a prompt cache is loaded; release it first")
                                         : read_cache(engine, path ? path : "");
    gate_leave(&engine->gate);
    return result;
}

int engine_release_cache(Engine *engine) {
    if (!gate_enter(&engine->gate, "rkllm_release_prompt_cache")) return -1;
    cache_free(&engine->stored);
    gate_leave(&engine->gate);
    return 0;
}
