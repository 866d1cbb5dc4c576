/* Encodes the texts of a file with the stand-in's tokenizer, one line of ids each. A text is written as its
 * length in bytes, a newline, and the bytes. */
#include <stdio.h>
#include <stdlib.h>

#include "tokenizer.h"

int main(int count, char **arguments) {
    Container container;
    FILE *texts = count == 3 ? fopen(arguments[2], "rb") : NULL;
    if (!texts || container_read(&container, arguments[1]) != CONTAINER_READ) return 1;
    Tokenizer *tokenizer = tokenizer_new(&container);
    size_t length;
    while (fscanf(texts, "%zu", &length) == 1 && fgetc(texts) == '\n') {
        char *text = malloc(length + 1);
        if (fread(text, 1, length, texts) != length) return 1;
        int n;
        int32_t *ids = tokenizer_encode(tokenizer, text, length, &n);
        for (int i = 0; i < n; i++) printf("%d ", ids[i]);
        putchar('\n');
        free(ids);
        free(text);
    }
    fclose(texts);
    tokenizer_free(tokenizer);
    container_free(&container);
    return 0;
}
