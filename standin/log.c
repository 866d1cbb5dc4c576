#include "log.h"

#include <stdarg.h>
#include <stdio.h>

void log_info(const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    fputs("I rkllm: ", stdout);
    vprintf(format, rest);
    putchar('\n');
    fflush(stdout);
    va_end(rest);
}

int log_error(const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    fputs("E rkllm: ", stderr);
    vfprintf(stderr, format, rest);
    fputc('\n', stderr);
    va_end(rest);
    return -1;
}
