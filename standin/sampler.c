#include "sampler.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    int32_t id;
    float logit, p;
} Candidate;

void sampler_seed(SamplerState *state, uint64_t seed) {
    state->random = seed;
    state->surprise = -1;
}

/* Splitmix64; [0, 1). */
static double uniform(SamplerState *state) {
    uint64_t z = state->random += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (double)((z ^ z >> 31) >> 11) / 9007199254740992.0;
}

static void penalise(const Sampling *s, float *logits, int vocabulary, const int32_t *recent, int count) {
    for (int i = 0; i < count; i++) {
        int32_t id = recent[i];
        int seen = 0, times = 0;
        if (id < 0 || id >= vocabulary) continue;
        for (int j = 0; j < i; j++) seen |= recent[j] == id;
        if (seen) continue;
        for (int j = i; j < count; j++) times += recent[j] == id;
        logits[id] = logits[id] > 0 ? logits[id] / s->repeat_penalty : logits[id] * s->repeat_penalty;
        logits[id] -= times * s->frequency_penalty + s->presence_penalty;
    }
}

static int32_t largest(const float *logits, int vocabulary) {
    int32_t best = 0;
    for (int32_t id = 1; id < vocabulary; id++)
        if (logits[id] > logits[best]) best = id;
    return best;
}

static int by_logit(const void *a, const void *b) {
    const Candidate *left = a, *right = b;
    if (left->logit != right->logit) return left->logit < right->logit ? 1 : -1;
    return (left->id > right->id) - (left->id < right->id);
}

static void softmax(Candidate *candidates, int count, float temperature) {
    float sum = 0;
    for (int i = 0; i < count; i++)
        sum += candidates[i].p = expf((candidates[i].logit - candidates[0].logit) / temperature);
    for (int i = 0; i < count; i++) candidates[i].p /= sum;
}

static int draw(SamplerState *state, const Candidate *candidates, int count) {
    double left = uniform(state);
    for (int i = 0; i + 1 < count; i++)
        if ((left -= candidates[i].p) < 0) return i;
    return count - 1;
}

/* Mirostat 2: keeps what would surprise by more than mu out, and steers mu towards tau. */
static int mirostat(SamplerState *state, const Sampling *s, Candidate *candidates, int count) {
    if (state->surprise < 0) state->surprise = 2 * s->tau;
    softmax(candidates, count, s->temperature);
    int kept = 1;
    while (kept < count && -log2f(candidates[kept].p) <= state->surprise) kept++;
    softmax(candidates, kept, s->temperature);
    int chosen = draw(state, candidates, kept);
    state->surprise -= s->eta * (-log2f(candidates[chosen].p) - s->tau);
    if (state->surprise < 0) state->surprise = 0;
    return chosen;
}

int32_t sampler_choose(SamplerState *state, const Sampling *s, float *logits, int vocabulary,
                       const int32_t *recent, int count) {
    penalise(s, logits, vocabulary, recent, count);
    if (s->temperature <= 0 || s->top_k == 1) return largest(logits, vocabulary);

    Candidate *candidates = malloc(vocabulary * sizeof *candidates);
    for (int32_t id = 0; id < vocabulary; id++) candidates[id] = (Candidate){id, logits[id], 0};
    qsort(candidates, vocabulary, sizeof *candidates, by_logit);
    int chosen, kept = vocabulary;
    if (s->mirostat) {
        chosen = mirostat(state, s, candidates, kept);
    } else {
        if (s->top_k > 0 && s->top_k < kept) kept = s->top_k;
        softmax(candidates, kept, 1);
        float mass = 0;
        for (int i = 0; i < kept; i++) /* at least one stays */
            if ((mass += candidates[i].p) >= s->top_p) kept = i + 1;
        softmax(candidates, kept, s->temperature);
        chosen = draw(state, candidates, kept);
    }
    int32_t id = candidates[chosen].id;
    free(candidates);
    return id;
}
