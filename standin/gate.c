#include "gate.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

double now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

void gate_init(Gate *gate, const Options *options) {
    *gate = (Gate){.options = options};
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&gate->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&gate->lock, NULL);
}

void gate_destroy(Gate *gate) {
    pthread_cond_destroy(&gate->changed);
    pthread_mutex_destroy(&gate->lock);
}

/* Coming in and leaving. */

static void complain(const Gate *gate, const char *what) {
    fprintf(stderr, "standin: RE-ENTRY %s while a run is in progress on this handle\n", what);
    if (gate->options->abort_on_reentry) abort();
}

static bool is_own(const Gate *gate) { return gate->is_busy && pthread_equal(gate->runner, pthread_self()); }

static void await_finishing(Gate *gate) {
    while (gate->is_finishing && !is_own(gate)) pthread_cond_wait(&gate->changed, &gate->lock);
}

bool gate_enter(Gate *gate, const char *what) {
    pthread_mutex_lock(&gate->lock);
    await_finishing(gate);
    if (gate->is_busy) {
        pthread_mutex_unlock(&gate->lock);
        complain(gate, what);
        return false;
    }
    gate->is_busy = true;
    gate->abort_wanted = false;
    gate->runner = pthread_self();
    if (gate->has_thread) pthread_join(gate->thread, NULL); /* it has let go of everything */
    gate->has_thread = false;
    pthread_mutex_unlock(&gate->lock);
    return true;
}

void gate_leave(Gate *gate) {
    pthread_mutex_lock(&gate->lock);
    gate->is_busy = gate->is_finishing = false;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}

bool gate_hand_over(Gate *gate, void *(*work)(void *), void *argument) {
    pthread_mutex_lock(&gate->lock);
    bool has_started = gate->has_thread = !pthread_create(&gate->thread, NULL, work, argument);
    if (has_started) gate->runner = gate->thread; /* at once: the caller may close before it has begun */
    pthread_mutex_unlock(&gate->lock);
    return has_started;
}

void gate_finish(Gate *gate) {
    pthread_mutex_lock(&gate->lock);
    gate->is_finishing = true;
    pthread_mutex_unlock(&gate->lock);
}

bool gate_close(Gate *gate) {
    pthread_mutex_lock(&gate->lock);
    await_finishing(gate);
    bool was_busy = gate->is_busy, would_await_itself = is_own(gate);
    pthread_mutex_unlock(&gate->lock);
    if (was_busy) complain(gate, "rkllm_destroy");
    if (would_await_itself) return false;
    gate_abort(gate);
    pthread_mutex_lock(&gate->lock);
    while (gate->is_busy) pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
    if (gate->has_thread) pthread_join(gate->thread, NULL);
    return true;
}

/* Aborting. */

static bool is_running(const Gate *gate) { return gate->is_busy && !gate->is_finishing; }

int gate_abort(Gate *gate) {
    pthread_mutex_lock(&gate->lock);
    bool running = is_running(gate);
    if (running && !gate->abort_wanted) {
        const Fault *fault = &gate->options->fault;
        gate->abort_wanted = true;
        gate->abort_from = now_ms() + (fault_strikes(fault, FAULT_SLOW_ABORT) ? fault->at : 0);
        pthread_cond_broadcast(&gate->changed);
    }
    pthread_mutex_unlock(&gate->lock);
    return running ? 0 : -1;
}

bool gate_is_running(Gate *gate) {
    pthread_mutex_lock(&gate->lock);
    bool running = is_running(gate);
    pthread_mutex_unlock(&gate->lock);
    return running;
}

bool gate_is_aborted(Gate *gate) {
    pthread_mutex_lock(&gate->lock);
    bool aborted = gate->abort_wanted && now_ms() >= gate->abort_from;
    pthread_mutex_unlock(&gate->lock);
    return aborted;
}

void gate_wait_until(Gate *gate, double moment) {
    pthread_mutex_lock(&gate->lock);
    for (double now; (now = now_ms()) < moment;) {
        if (gate->abort_wanted && now >= gate->abort_from) break;
        double next = gate->abort_wanted && gate->abort_from < moment ? gate->abort_from : moment;
        struct timespec until = {.tv_sec = next / 1e3};
        until.tv_nsec = (next - until.tv_sec * 1e3) * 1e6;
        pthread_cond_timedwait(&gate->changed, &gate->lock, &until);
    }
    pthread_mutex_unlock(&gate->lock);
}

void gate_await_abort(Gate *gate) {
    pthread_mutex_lock(&gate->lock);
    double effective = gate->abort_wanted ? gate->abort_from : 0;
    pthread_mutex_unlock(&gate->lock);
    gate_wait_until(gate, effective);
}
