#include "load.h"

#include <ctype.h>
#include <string.h>

#include "log.h"

static void upper(char *to, size_t size, const char *from, size_t length) {
    size_t n = 0;
    for (; n < length && n + 1 < size; n++) to[n] = toupper((unsigned char)from[n]);
    to[n] = '\0';
}

static int refuse_magic(int release) {
    return log_error(release >= 10201 ? "invalid rkllm model!" : "invalid rknn llm model magic");
}

static int check_driver(const char *platform, int release, const Options *options) {
    bool is_old = fault_strikes(&options->fault, FAULT_OLD_DRIVER);
    log_info("rkllm-runtime version: %d.%d.%d, rknpu driver version: %s, platform: %s", release / 10000,
             release / 100 % 100, release % 100, is_old ? "0.9.6" : "0.9.8", platform);
    if (fault_strikes(&options->fault, FAULT_NO_DRIVER))
        return log_error("failed to open rknpu module, need to insmod rknpu dirver!");
    return is_old ? log_error("rknpu driver version is too low, please upgrade to 0.9.7") : 0;
}

/* A file of another generation, or none at all. */
static int check_generation(const Container *container, int release, const Options *options) {
    int made_for = container_release(container) / 100, own = release / 100;
    if (made_for < own)
        return log_error("The model version is too old, please use the latest toolkit to reconvert the model!");
    return made_for > own || fault_strikes(&options->fault, FAULT_BAD_MAGIC) ? refuse_magic(release) : 0;
}

static int check_fit(const Container *container, const char *platform, int max_context, const Options *options) {
    char its_platform[16], dtype[16];
    int limit = container->max_context_limit;
    upper(its_platform, sizeof its_platform, container->platform.bytes, container->platform.length);
    upper(dtype, sizeof dtype, container->dtype.bytes, container->dtype.length);
    log_info("rkllm-toolkit version: %.*s, max_context_limit: %d, npu_core_num: %u, target_platform: %s, "
             "model_dtype: %s",
             (int)container->toolkit.length, container->toolkit.bytes, limit, container->npu_core_num, its_platform,
             dtype);
    if (strcmp(platform, its_platform))
        return log_error("target_platform does not match, the model is for %s and this is %s", its_platform, platform);
    if (max_context > limit)
        return log_error("max_context[%d] must be less than the model's max_context_limit[%d]", max_context, limit);
    if (max_context <= 0) return log_error("max_context[%d] must be greater than 0", max_context);
    if (fault_strikes(&options->fault, FAULT_NPU_OOM))
        return log_error("failed to malloc npu memory, size: %zu, flags: 0x2", container->size);
    return 0;
}

int load_model(Container *container, const char *path, int max_context, int release, const Options *options) {
    char platform[sizeof options->platform];
    upper(platform, sizeof platform, options->platform, strlen(options->platform));
    if (check_driver(platform, release, options)) return -1;
    const char *shown = path ? path : "(null)";
    log_info("loading rkllm model from %s", shown);
    ContainerState state = container_read(container, path);
    if (state == CONTAINER_UNREADABLE) return log_error("failed to open %s", shown);
    if (state != CONTAINER_READ) return refuse_magic(release);
    if (check_generation(container, release, options) || check_fit(container, platform, max_context, options)) {
        container_free(container);
        return -1;
    }
    return 0;
}
