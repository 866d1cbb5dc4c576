/* Byte-level BPE with Qwen2's way of cutting text, as the `tokenizers` library does it. */
#ifndef STANDIN_TOKENIZER_H
#define STANDIN_TOKENIZER_H

#include "container.h"

typedef struct Tokenizer Tokenizer;

/* Keeps pointers into the container. */
Tokenizer *tokenizer_new(const Container *container);
void tokenizer_free(Tokenizer *tokenizer);

/* The ids of a text, for the caller to free; added tokens in it are recognised. */
int32_t *tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t length, int *count);

#endif
