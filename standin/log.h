/* The vendor's log: the lines by which callers tell what went wrong. */
#ifndef STANDIN_LOG_H
#define STANDIN_LOG_H

/* "E rkllm: ..." to stderr, "I rkllm: ..." to stdout; returns -1. */
int log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
