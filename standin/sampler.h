/* Choosing the next token. */
#ifndef STANDIN_SAMPLER_H
#define STANDIN_SAMPLER_H

#include <stdint.h>

typedef struct {
    int top_k; /* 1 is greedy; 0 or less keeps all */
    float top_p, temperature;
    float repeat_penalty, frequency_penalty, presence_penalty;
    int mirostat; /* 0 is off; 1 and 2 both run version 2 */
    float tau, eta;
} Sampling;

enum { PENALTY_WINDOW = 64 };

typedef struct {
    uint64_t random;
    float surprise; /* mirostat's mu; below zero until the first token */
} SamplerState;

void sampler_seed(SamplerState *state, uint64_t seed);
/* `recent` is what the penalties look at, `count` tokens long. The logits are used up. */
int32_t sampler_choose(SamplerState *state, const Sampling *sampling, float *logits, int vocabulary,
                       const int32_t *recent, int count);

#endif
