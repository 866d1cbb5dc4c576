#include "fault.h"

#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name;
    FaultKind kind;
    bool numbered;
} FAULTS[] = {
    {"crash-init", FAULT_CRASH_INIT, false},     {"crash-prefill", FAULT_CRASH_PREFILL, false},
    {"crash-decode", FAULT_CRASH_DECODE, true},  {"hang-init", FAULT_HANG_INIT, false},
    {"hang-prefill", FAULT_HANG_PREFILL, false}, {"hang-decode", FAULT_HANG_DECODE, true},
    {"corrupt-ids", FAULT_CORRUPT_IDS, true},    {"no-tokenizer", FAULT_NO_TOKENIZER, false},
    {"matmul-failed", FAULT_MATMUL, true},       {"bad-magic", FAULT_BAD_MAGIC, false},
    {"npu-oom", FAULT_NPU_OOM, false},           {"old-driver", FAULT_OLD_DRIVER, false},
    {"no-driver", FAULT_NO_DRIVER, false},       {"init-fail", FAULT_INIT_FAIL, false},
    {"slow-abort", FAULT_SLOW_ABORT, true},
};

bool fault_read(Fault *fault, const char *value) {
    for (size_t i = 0; i < sizeof FAULTS / sizeof *FAULTS; i++) {
        size_t length = strlen(FAULTS[i].name);
        const char *rest = value + length;
        if (strncmp(value, FAULTS[i].name, length) || *rest != (FAULTS[i].numbered ? ':' : '\0')) continue;
        fault->kind = FAULTS[i].kind;
        if (!FAULTS[i].numbered) return true;
        char *end;
        long at = strtol(rest + 1, &end, 10);
        if (end == rest + 1 || *end || at < 0 || at > INT_MAX) return false;
        fault->at = at;
        return true;
    }
    return false;
}

bool fault_strikes(const Fault *fault, FaultKind kind) {
    return fault->kind == kind && (!*fault->once || !unlink(fault->once));
}

void fault_crash(void) {
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
}

void fault_hang(void) {
    for (;;) pause();
}
