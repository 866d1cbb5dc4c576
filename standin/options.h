/* What the environment asks of the stand-in: pace, faults, seed and the like. Read once, when a handle is made. */
#ifndef STANDIN_OPTIONS_H
#define STANDIN_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "fault.h"

/* Zeroes mean: as fast as this machine computes. */
typedef struct {
    double prefill_128_ms; /* time to first token of a prompt of 128 */
    double token_ms;
    double memory_mb;
} Pace;

typedef struct {
    Pace pace;
    Fault fault;
    char platform[16];
    bool has_seed, abort_on_reentry;
    bool shifts_when_full; /* or else a full context ends the run */
    uint64_t seed;
} Options;

/* False, with a line on stderr, when a variable cannot be understood: a test must not run without its fault. */
bool options_read(Options *options);

/* Milliseconds that the board takes to evaluate positions [from, to). */
double pace_prefill_ms(const Pace *pace, int from, int to);

#endif
