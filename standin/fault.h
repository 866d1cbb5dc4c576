/* Misfortunes on request. */
#ifndef STANDIN_FAULT_H
#define STANDIN_FAULT_H

#include <stdbool.h>

typedef enum {
    FAULT_NONE,
    FAULT_CRASH_INIT,
    FAULT_CRASH_PREFILL,
    FAULT_CRASH_DECODE,
    FAULT_HANG_INIT,
    FAULT_HANG_PREFILL,
    FAULT_HANG_DECODE,
    FAULT_CORRUPT_IDS,
    FAULT_NO_TOKENIZER,
    FAULT_MATMUL,
    FAULT_BAD_MAGIC,
    FAULT_NPU_OOM,
    FAULT_OLD_DRIVER,
    FAULT_NO_DRIVER,
    FAULT_INIT_FAIL,
    FAULT_SLOW_ABORT,
} FaultKind;

typedef struct {
    FaultKind kind;
    int at; /* the N or MS after the colon */
    char once[1024];
} Fault;

/* "crash-decode:3" and the like. False when there is no such fault. */
bool fault_read(Fault *fault, const char *value);

/* Whether this fault is asked for; if `once` names a file, only while that exists, which it uses up. */
bool fault_strikes(const Fault *fault, FaultKind kind);

void fault_crash(void);
/* Never returns, and heeds no abort. */
void fault_hang(void);

#endif
