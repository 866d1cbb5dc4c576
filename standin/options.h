/* What the environment asks of the stand-in: pace, faults, seed. Read once, when a handle is made. */
#ifndef STANDIN_OPTIONS_H
#define STANDIN_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

typedef enum {
    FAULT_NONE,
    FAULT_CRASH_INIT,
    FAULT_CRASH_PREFILL,
    FAULT_CRASH_DECODE,
    FAULT_HANG_PREFILL,
    FAULT_HANG_DECODE,
    FAULT_CORRUPT_IDS,
    FAULT_MATMUL,
    FAULT_BAD_MAGIC,
    FAULT_NPU_OOM,
    FAULT_OLD_DRIVER,
    FAULT_NO_DRIVER,
    FAULT_INIT_FAIL,
    FAULT_SLOW_ABORT,
} FaultKind;

/* Zeroes mean: as fast as this machine computes. */
typedef struct {
    double prefill_128_ms; /* time to first token of a prompt of 128 */
    double token_ms;
    double memory_mb;
} Pace;

typedef struct {
    Pace pace;
    FaultKind fault;
    int fault_at; /* the N or MS after the colon */
    char fault_once[1024];
    char platform[16];
    bool has_seed, abort_on_reentry;
    uint64_t seed;
} Options;

/* False, with a line on stderr, when a variable cannot be understood: a test must not run without its fault. */
bool options_read(Options *options);

/* Whether this fault is asked for; with STANDIN_FAULT_ONCE only while that file exists, which it uses up. */
bool options_fault(const Options *options, FaultKind kind);

/* Milliseconds that the board takes to evaluate positions [from, to). */
double pace_prefill_ms(const Pace *pace, int from, int to);

#endif
