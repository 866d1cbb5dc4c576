#include "container.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char MAGIC[8] = "EXORKLLM";
enum { LAYOUT = 1, HEADER = 28, ALIGNMENT = 64, MOST = 1 << 20 };

/* A file that ends too early leaves the reader short; everything read after that is zero. */
typedef struct {
    const unsigned char *at, *end;
    bool is_short;
} Reader;

static const unsigned char *take(Reader *reader, size_t count) {
    if ((size_t)(reader->end - reader->at) < count) {
        reader->is_short = true;
        return NULL;
    }
    const unsigned char *found = reader->at;
    reader->at += count;
    return found;
}

static uint32_t number(Reader *reader) {
    const unsigned char *raw = take(reader, 4);
    return raw ? raw[0] | raw[1] << 8 | raw[2] << 16 | (uint32_t)raw[3] << 24 : 0;
}

static uint64_t long_number(Reader *reader) {
    uint64_t low = number(reader);
    return low | (uint64_t)number(reader) << 32;
}

static float fraction(Reader *reader) {
    uint32_t bits = number(reader);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static Text text(Reader *reader) {
    uint32_t length = number(reader);
    const unsigned char *bytes = take(reader, length);
    return bytes ? (Text){(const char *)bytes, length} : (Text){"", 0};
}

/* A count of things to follow; a damaged one must not be believed. */
static uint32_t count(Reader *reader) {
    uint32_t found = number(reader);
    if (found > MOST) reader->is_short = true;
    return reader->is_short ? 0 : found;
}

static uint64_t digest(const unsigned char *bytes, size_t length) {
    uint64_t sum = 0xCBF29CE484222325u;
    for (size_t done = 0; done < length; done += 8) {
        uint64_t word = 0;
        for (size_t i = 0; i < 8 && done + i < length; i++) word |= (uint64_t)bytes[done + i] << 8 * i;
        sum = (sum ^ word) * 0x100000001B3u;
    }
    return sum;
}

static bool load(Container *container, const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) return false;
    long size = fseek(file, 0, SEEK_END) ? -1 : ftell(file);
    rewind(file);
    container->file = size > 0 ? malloc(size) : NULL;
    container->size = size;
    bool read = container->file && fread(container->file, 1, size, file) == (size_t)size;
    fclose(file);
    return read;
}

static void read_vocabulary(Container *container, Reader *reader) {
    container->n_tokens = count(reader);
    container->tokens = calloc(container->n_tokens + 1, sizeof *container->tokens);
    for (uint32_t i = 0; i < container->n_tokens; i++) {
        const unsigned char *kind = take(reader, 1);
        container->tokens[i] = (Token){.kind = kind ? *kind : TOKEN_NORMAL, .text = text(reader)};
    }
    container->n_merges = count(reader);
    container->merges = calloc(container->n_merges + 1, sizeof *container->merges);
    for (uint32_t i = 0; i < container->n_merges; i++) {
        Merge *merge = &container->merges[i];
        merge->left = number(reader);
        merge->right = number(reader);
        merge->joined = number(reader);
        if (merge->joined >= container->n_tokens) reader->is_short = true;
    }
    container->n_ends = count(reader);
    container->ends = calloc(container->n_ends + 1, sizeof *container->ends);
    for (uint32_t i = 0; i < container->n_ends; i++) container->ends[i] = number(reader);
}

static size_t weights_expected(const Container *c) {
    if (!c->heads || !c->kv_heads || c->heads % c->kv_heads || c->hidden % c->heads || c->hidden % 8 ||
        c->intermediate % 8 || c->hidden / c->heads % 8 || c->n_tokens > c->vocabulary)
        return 0;
    size_t hidden = c->hidden, kv = hidden / c->heads * c->kv_heads;
    size_t attention = 2 * hidden * hidden + hidden + 2 * (kv * hidden + kv);
    size_t layer = attention + 2 * hidden + 3 * hidden * c->intermediate;
    return c->vocabulary * hidden + c->layers * layer + hidden;
}

static bool parse(Container *container) {
    Reader header = {container->file + sizeof MAGIC, container->file + container->size, false};
    uint32_t layout = number(&header);
    uint64_t size = long_number(&header), sum = long_number(&header);
    if (header.is_short || layout != LAYOUT || size != container->size) return false;
    if (digest(header.at, container->size - HEADER) != sum) return false;

    Reader reader = header;
    container->release = text(&reader);
    container->toolkit = text(&reader);
    container->platform = text(&reader);
    container->dtype = text(&reader);
    container->max_context_limit = number(&reader);
    container->npu_core_num = number(&reader);
    container->vocabulary = number(&reader);
    container->hidden = number(&reader);
    container->intermediate = number(&reader);
    container->layers = number(&reader);
    container->heads = number(&reader);
    container->kv_heads = number(&reader);
    container->rope_theta = fraction(&reader);
    container->norm_eps = fraction(&reader);
    read_vocabulary(container, &reader);
    ChatPieces *chat = &container->chat;
    Text *pieces[] = {&chat->prefix, &chat->postfix, &chat->no_thinking, &chat->answer_end,
                      &chat->system_open, &chat->tools_open, &chat->tools_close};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) *pieces[i] = text(&reader);
    size_t past = (size_t)(reader.at - container->file) % ALIGNMENT;
    if (past) take(&reader, ALIGNMENT - past);
    container->weights = (const uint16_t *)(const void *)reader.at;
    container->n_weights = (size_t)(reader.end - reader.at) / 2;
    size_t expected = weights_expected(container);
    return !reader.is_short && expected && expected == container->n_weights;
}

ContainerState container_read(Container *container, const char *path) {
    *container = (Container){0};
    ContainerState state = CONTAINER_READ;
    if (!path || !load(container, path))
        state = CONTAINER_UNREADABLE;
    else if (container->size < HEADER || memcmp(container->file, MAGIC, sizeof MAGIC))
        state = CONTAINER_BAD_MAGIC;
    else if (!parse(container))
        state = CONTAINER_DAMAGED;
    if (state != CONTAINER_READ) container_free(container);
    return state;
}

void container_free(Container *container) {
    free(container->file);
    free(container->tokens);
    free(container->merges);
    free(container->ends);
    *container = (Container){0};
}

int container_release(const Container *container) {
    char copy[32];
    int major = 0, minor = 0, patch = 0;
    snprintf(copy, sizeof copy, "%.*s", (int)container->release.length, container->release.bytes);
    sscanf(copy, "%d.%d.%d", &major, &minor, &patch);
    return major * 10000 + minor * 100 + patch;
}
