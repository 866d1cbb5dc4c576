/* The model file that demo/rkllm_container.py writes: read, checked, and kept as plain arrays. */
#ifndef STANDIN_CONTAINER_H
#define STANDIN_CONTAINER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *bytes;
    uint32_t length;
} Text;

typedef enum { TOKEN_NORMAL, TOKEN_CONTROL, TOKEN_MARKER } TokenKind;

typedef struct {
    Text text;
    TokenKind kind;
} Token;

typedef struct {
    uint32_t left, right, joined;
} Merge;

/* What stands around a prompt; see `_template` in the exporter. */
typedef struct {
    Text prefix, postfix, no_thinking, answer_end, system_open, tools_open, tools_close;
} ChatPieces;

typedef struct {
    unsigned char *file;
    size_t size;
    Text release, toolkit, platform, dtype;
    uint32_t max_context_limit, npu_core_num;
    uint32_t vocabulary, hidden, intermediate, layers, heads, kv_heads;
    float rope_theta, norm_eps;
    uint32_t n_tokens, n_merges, n_ends;
    Token *tokens;
    Merge *merges;
    uint32_t *ends;
    ChatPieces chat;
    const uint16_t *weights; /* bfloat16, in the exporter's order */
    size_t n_weights;
} Container;

typedef enum { CONTAINER_READ, CONTAINER_UNREADABLE, CONTAINER_BAD_MAGIC, CONTAINER_DAMAGED } ContainerState;

/* The container is freed again unless the answer is CONTAINER_READ. */
ContainerState container_read(Container *container, const char *path);
void container_free(Container *container);

/* major * 10000 + minor * 100 + patch, or 0. */
int container_release(const Container *container);

#endif
