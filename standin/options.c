#include "options.h"

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

static const struct {
    const char *name;
    FaultKind kind;
    bool numbered;
} FAULTS[] = {
    {"crash-init", FAULT_CRASH_INIT, false},     {"crash-prefill", FAULT_CRASH_PREFILL, false},
    {"crash-decode", FAULT_CRASH_DECODE, true},  {"hang-prefill", FAULT_HANG_PREFILL, false},
    {"hang-decode", FAULT_HANG_DECODE, true},    {"corrupt-ids", FAULT_CORRUPT_IDS, true},
    {"matmul-failed", FAULT_MATMUL, true},       {"bad-magic", FAULT_BAD_MAGIC, false},
    {"npu-oom", FAULT_NPU_OOM, false},           {"old-driver", FAULT_OLD_DRIVER, false},
    {"no-driver", FAULT_NO_DRIVER, false},       {"init-fail", FAULT_INIT_FAIL, false},
    {"slow-abort", FAULT_SLOW_ABORT, true},
};

#define COUNT(table) (sizeof(table) / sizeof *(table))

static bool refuse(const char *name, const char *value) {
    fprintf(stderr, "standin: %s=%s is not understood; see standin/README.md\n", name, value);
    return false;
}

static bool read_pace(Options *options, const char *value) {
    double ttft_ms, tokens_per_s;
    int end = 0;
    if (sscanf(value, "%lf/%lf%n", &ttft_ms, &tokens_per_s, &end) == 2 && !value[end]) {
        if (ttft_ms < 0 || tokens_per_s <= 0) return refuse("STANDIN_PACE", value);
        options->pace = (Pace){ttft_ms, 1000 / tokens_per_s, 0};
        return true;
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

static bool read_fault(Options *options, const char *value) {
    for (size_t i = 0; i < COUNT(FAULTS); i++) {
        size_t length = strlen(FAULTS[i].name);
        const char *rest = value + length;
        char *end;
        if (strncmp(value, FAULTS[i].name, length) || *rest != (FAULTS[i].numbered ? ':' : '\0')) continue;
        options->fault = FAULTS[i].kind;
        if (!FAULTS[i].numbered) return true;
        options->fault_at = strtol(rest + 1, &end, 10);
        return end != rest + 1 && !*end && options->fault_at >= 0 ? true : refuse("STANDIN_FAULT", value);
    }
    return refuse("STANDIN_FAULT", value);
}

static bool read_number(const char *name, const char *value, double *number) {
    char *end;
    *number = strtod(value, &end);
    return end != value && !*end && *number >= 0 ? true : refuse(name, value);
}

static const char *environment(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

bool options_read(Options *options) {
    const char *value;
    double number;
    *options = (Options){.platform = "rk3588"};
    if ((value = environment("STANDIN_PACE")) && !read_pace(options, value)) return false;
    if ((value = environment("STANDIN_TOKEN_MS")) && !read_number("STANDIN_TOKEN_MS", value, &options->pace.token_ms))
        return false;
    if ((value = environment("STANDIN_SEED"))) {
        if (!read_number("STANDIN_SEED", value, &number)) return false;
        options->has_seed = true;
        options->seed = (uint64_t)number;
    }
    if ((value = environment("STANDIN_PLATFORM"))) snprintf(options->platform, sizeof options->platform, "%s", value);
    if ((value = environment("STANDIN_FAULT")) && !read_fault(options, value)) return false;
    if ((value = environment("STANDIN_FAULT_ONCE")))
        snprintf(options->fault_once, sizeof options->fault_once, "%s", value);
    options->abort_on_reentry = environment("STANDIN_ABORT_ON_REENTRY") != NULL;
    return true;
}

bool options_fault(const Options *options, FaultKind kind) {
    return options->fault == kind && (!*options->fault_once || !unlink(options->fault_once));
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
