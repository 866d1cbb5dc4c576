/* One at a time on a handle: who is in, who is told off, and how a run is aborted.
 *
 * A run is in from `gate_enter` to `gate_leave`. Its last callback is special: the run itself is over, and
 * whoever was just told so may be faster than the return from that callback. Such a caller waits for the
 * return; anyone else who comes in meanwhile is refused with a complaint. */
#ifndef STANDIN_GATE_H
#define STANDIN_GATE_H

#include <pthread.h>
#include <stdbool.h>

#include "options.h"

typedef struct {
    const Options *options;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Guarded by `lock`. Finishing: the last callback of a run is under way. */
    bool is_busy, is_finishing, abort_wanted, has_thread;
    double abort_from;
    pthread_t runner, thread;
} Gate;

/* Keeps the pointer. */
void gate_init(Gate *gate, const Options *options);
void gate_destroy(Gate *gate);

/* False, with a complaint that names `what`, while somebody is in. */
bool gate_enter(Gate *gate, const char *what);
void gate_leave(Gate *gate);
/* For the one who is in: `work` goes on with the run on a thread of its own. False when none could be had. */
bool gate_hand_over(Gate *gate, void *(*work)(void *), void *argument);
/* For the one who is in: only the last callback is left. */
void gate_finish(Gate *gate);
/* Aborts and awaits a run, with a complaint. False inside a callback of that run, which it cannot await. */
bool gate_close(Gate *gate);

/* -1 when no run is in progress. */
int gate_abort(Gate *gate);
bool gate_is_running(Gate *gate);
/* For the run: whether an abort has taken effect. */
bool gate_is_aborted(Gate *gate);
/* Returns at that moment, or as soon as an abort takes effect. */
void gate_wait_until(Gate *gate, double moment);
/* Returns when an abort that was asked for has taken effect; at once when none was. */
void gate_await_abort(Gate *gate);

/* Milliseconds of a clock that only goes forward. */
double now_ms(void);

#endif
