#include "options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* The vendor's figures for release 1.3.0, prompt of 128 and 64 new tokens: ms to the first token, tokens per
 * second, MB. w8a8 on RK3588, w4a16 on RK3576. */
static const struct {
    const char *platform, *model;
    double ttft_ms, tokens_per_s, memory_mb;
} FIGURES[] = {
    {"rk3588", "Qwen2-0.5B", 146, 41.58, 670},     {"rk3588", "Qwen3-0.6B", 199, 32.91, 791},
    {"rk3588", "TinyLlama-1.1B", 244, 24.43, 1094}, {"rk3588", "Qwen2.5-1.5B", 378, 16.69, 1689},
    {"rk3588", "InternLM2-1.8B", 380, 15.45, 1776}, {"rk3588", "Gemma2-2B", 598, 10.37, 2779},
    {"rk3588", "Phi3-3.8B", 1017, 7.45, 3758},      {"rk3588", "MiniCPM3-4B", 1408, 5.94, 4384},
    {"rk3588", "ChatGLM3-6B", 1353, 4.98, 5986},    {"rk3588", "Qwen3-VL-2B", 384, 14.98, 1869},
    {"rk3588", "Qwen3.5-0.8B", 588, 27.05, 1040},   {"rk3588", "Qwen3.5-2B", 777, 13.59, 2122},
    {"rk3588", "Qwen3.5-4B", 2069, 6.22, 4576},     {"rk3576", "Qwen2-0.5B", 342, 32.56, 443},
    {"rk3576", "Qwen3-0.6B", 469, 24.85, 513},      {"rk3576", "TinyLlama-1.1B", 544, 19.71, 601},
    {"rk3576", "InternLM2-1.8B", 766, 13.55, 975},  {"rk3576", "Phi3-3.8B", 1829, 6.58, 1996},
    {"rk3576", "MiniCPM3-4B", 2537, 4.87, 2380},    {"rk3576", "ChatGLM3-6B", 2167, 4.63, 3023},
};

#define COUNT(table) (sizeof(table) / sizeof *(table))

static bool refuse(const char *name, const char *value) {
    fprintf(stderr, "standin: %s=%s is not understood; see standin/README.md\n", name, value);
    return false;
}

static bool is_amount(double number) { return isfinite(number) && number >= 0; }

static bool read_pace(Options *options, const char *value) {
    double ttft_ms, tokens_per_s;
    int end = 0;
    if (sscanf(value, "%lf/%lf%n", &ttft_ms, &tokens_per_s, &end) == 2 && !value[end]) {
        options->pace = (Pace){ttft_ms, 1000 / tokens_per_s, 0};
        return is_amount(ttft_ms) && is_amount(tokens_per_s) && tokens_per_s > 0 ? true : refuse("STANDIN_PACE", value);
    }
    for (size_t i = 0; i < COUNT(FIGURES); i++) {
        size_t length = strlen(FIGURES[i].platform);
        if (strncasecmp(value, FIGURES[i].platform, length) || value[length] != ':' ||
            strcasecmp(value + length + 1, FIGURES[i].model))
            continue;
        options->pace = (Pace){FIGURES[i].ttft_ms, 1000 / FIGURES[i].tokens_per_s, FIGURES[i].memory_mb};
        strcpy(options->platform, FIGURES[i].platform);
        return true;
    }
    return refuse("STANDIN_PACE", value);
}

static bool read_token_ms(Options *options, const char *value) {
    char *end;
    options->pace.token_ms = strtod(value, &end);
    return end != value && !*end && is_amount(options->pace.token_ms) ? true : refuse("STANDIN_TOKEN_MS", value);
}

static bool read_seed(Options *options, const char *value) {
    char *end;
    errno = 0;
    options->seed = strtoull(value, &end, 10);
    options->has_seed = true;
    return !errno && !value[strspn(value, "0123456789")] ? true : refuse("STANDIN_SEED", value);
}

static bool copy(const char *name, const char *value, char *to, size_t size) {
    if (strlen(value) >= size) return refuse(name, value);
    strcpy(to, value);
    return true;
}

static bool read_platform(Options *options, const char *value) {
    return copy("STANDIN_PLATFORM", value, options->platform, sizeof options->platform);
}

static bool read_fault(Options *options, const char *value) {
    return fault_read(&options->fault, value) ? true : refuse("STANDIN_FAULT", value);
}

static bool read_fault_once(Options *options, const char *value) {
    return copy("STANDIN_FAULT_ONCE", value, options->fault.once, sizeof options->fault.once);
}

static bool read_when_full(Options *options, const char *value) {
    options->shifts_when_full = !strcmp(value, "shift");
    return options->shifts_when_full || !strcmp(value, "end") ? true : refuse("STANDIN_WHEN_FULL", value);
}

static bool read_abort_on_reentry(Options *options, const char *value) {
    (void)value;
    return options->abort_on_reentry = true;
}

static const struct {
    const char *name;
    bool (*read)(Options *, const char *);
} VARIABLES[] = {
    {"STANDIN_PACE", read_pace}, /* before those that change a part of it */
    {"STANDIN_TOKEN_MS", read_token_ms},
    {"STANDIN_PLATFORM", read_platform},
    {"STANDIN_SEED", read_seed},
    {"STANDIN_WHEN_FULL", read_when_full},
    {"STANDIN_FAULT", read_fault},
    {"STANDIN_FAULT_ONCE", read_fault_once},
    {"STANDIN_ABORT_ON_REENTRY", read_abort_on_reentry},
};

static bool is_known(const char *entry, size_t length) {
    for (size_t i = 0; i < COUNT(VARIABLES); i++)
        if (strlen(VARIABLES[i].name) == length && !strncmp(VARIABLES[i].name, entry, length)) return true;
    return false;
}

/* A misspelt name must not go unnoticed, either. */
static bool are_all_known(void) {
    for (char **entry = environ; *entry; entry++) {
        size_t length = strcspn(*entry, "=");
        if (strncmp(*entry, "STANDIN_", strlen("STANDIN_")) || is_known(*entry, length)) continue;
        fprintf(stderr, "standin: %s is not understood; see standin/README.md\n", *entry);
        return false;
    }
    return true;
}

bool options_read(Options *options) {
    *options = (Options){.platform = "rk3588"};
    if (!are_all_known()) return false;
    for (size_t i = 0; i < COUNT(VARIABLES); i++) {
        const char *value = getenv(VARIABLES[i].name);
        if (value && *value && !VARIABLES[i].read(options, value)) return false;
    }
    return true;
}

/* Attention makes long prompts dearer than in proportion: 71 s for 4096 and 226 s for 8192 positions have been
 * reported on RK3588, which fixes the quadratic part; the vendor's figure at 128 fixes the rest. */
static double prefill_work(double positions) {
    double blocks = positions / 128;
    return blocks * (1 + 0.0453 * blocks) / 1.0453;
}

double pace_prefill_ms(const Pace *pace, int from, int to) {
    return pace->prefill_128_ms * (prefill_work(to) - prefill_work(from));
}
