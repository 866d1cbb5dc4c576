"""What the vendor's runtime says on stdout and stderr, and what its owner can do about it.

The runtime's functions fail with -1 and nothing else; the reason is only in the log. The wording is what
users of releases 1.1.0 to 1.3.0 have reported; it could not be provoked here without the hardware. What is
said of a prompt that is too long has not been reported: that wording is the stand-in's.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from exo.errors import BadRequest, ContextLengthExceeded, EngineFailed, ExoError, NotReady


class Facts(msgspec.Struct, frozen=True):
    """What a log says of the runtime and of the model file; None for what it does not say."""

    runtime: str | None = None
    driver: str | None = None
    platform: str | None = None
    toolkit: str | None = None
    target_platform: str | None = None
    model_dtype: str | None = None
    max_context_limit: int | None = None
    npu_core_num: int | None = None


class ContextTooLarge(BadRequest):
    """More context was asked for than the model file was made for; `limit` is what it was made for."""

    limit: int = 0


@dataclass(frozen=True)
class Complaint:
    """A pattern in a log line, the failure it means, and the cure. `message` may use the pattern's groups
    and the log's facts."""

    pattern: re.Pattern[str]
    kind: type[ExoError]
    message: str
    param: str | None = None


def _complaint(pattern: str, kind: type[ExoError], message: str, param: str | None = None) -> Complaint:
    return Complaint(re.compile(pattern, re.IGNORECASE), kind, message, param)


# The closest to the cause comes first: one failure makes several of these lines.
COMPLAINTS: Sequence[Complaint] = (
    _complaint(
        r"rknpu driver version is too low(?:, please upgrade to (?P<wanted>[\d.]+))?",
        NotReady,
        "The NPU's kernel driver ({driver}) is too old for this runtime ({runtime}), which needs {wanted} or "
        "later. Update the board's kernel; cat /sys/kernel/debug/rknpu/version shows the driver in use.",
    ),
    _complaint(
        r"failed to open rknpu module",
        NotReady,
        "The NPU cannot be opened: this machine's kernel has no rknpu driver, or this user may not use it. "
        "Use the vendor's kernel, and see that /dev/dri/renderD* (or /dev/rknpu) can be read and written.",
    ),
    _complaint(
        r"failed to malloc npu memory|failed to allocate npu memory",
        NotReady,
        "The NPU has run out of memory. Unload another model, choose a smaller context (num_ctx), or give "
        "each model its own base_domain_id: one domain holds 4 GB.",
    ),
    _complaint(
        r"max_context\[(?P<asked>\d+)\] must be less than the model's max_context_limit\[(?P<limit>\d+)\]",
        ContextTooLarge,
        "A context of {asked} tokens was asked for, but the model file was made for at most {limit}. "
        "Set num_ctx to {limit} or less, or convert the model again with a larger max_context.",
        "num_ctx",
    ),
    _complaint(
        r"prompt of (?P<tokens>\d+) tokens.* exceeds? max_context(?:_len)?\[(?P<limit>\d+)\]",
        ContextLengthExceeded,
        "the prompt is {tokens} tokens long and the context holds {limit}, prompt and answer together",
    ),
    _complaint(
        r"target_platform does not match",
        EngineFailed,
        "The model file was made for another chip ({target_platform}) than this board's ({platform}). "
        "Get or convert it for this one.",
    ),
    _complaint(
        r"the model version is too old",
        EngineFailed,
        "The model file was made by a toolkit ({toolkit}) too old for the runtime on this board ({runtime}). "
        "Convert it again with the toolkit of the runtime's release, or install the file's runtime.",
    ),
    _complaint(
        r"invalid rkllm model!|invalid rknn llm model magic|invalid magic characters",
        EngineFailed,
        "The model file is damaged, is not an .rkllm file, or was made for a later release than the runtime "
        "on this board ({runtime}). Download it again, or install the runtime of the file's release.",
    ),
    _complaint(
        r"tokenizer is unavailable",
        EngineFailed,
        "The model file has no tokenizer that this runtime ({runtime}) can use. Convert it again with the "
        "toolkit of the runtime's release.",
    ),
    _complaint(
        r"(?P<product>matmul\([^)]*\)) run failed",
        EngineFailed,
        "The NPU failed in the middle of a computation ({product}). It is usually short of memory or its "
        "driver ({driver}) is too old: unload other models, choose a smaller context, or update the kernel.",
    ),
)

_FACT = re.compile(
    r"(?P<name>rkllm-runtime version|rknpu driver version|rkllm-toolkit version|target_platform|platform"
    r"|model_dtype|max_context_limit|npu_core_num): *(?P<value>[^\s,]+)"
)
_FACT_NAMES = {
    "rkllm-runtime version": "runtime",
    "rknpu driver version": "driver",
    "rkllm-toolkit version": "toolkit",
}


def facts(log_lines: Iterable[str]) -> Facts:
    """What the lines say of versions, platform and limits; a later line outdoes an earlier one."""
    found: dict[str, str] = {}
    for line in log_lines:
        for match in _FACT.finditer(line):
            found[_FACT_NAMES.get(match["name"], match["name"])] = match["value"]
    try:
        return msgspec.convert(found, Facts, strict=False)
    except msgspec.ValidationError:  # a number that is none: better no facts than a failure about a log
        return Facts()


def explain(log_lines: Iterable[str]) -> ExoError | None:
    """The failure that the lines tell of, with its cure, ready to be raised; None if they tell of none."""
    lines = list(log_lines)
    known = {name: value or "unknown" for name, value in msgspec.structs.asdict(facts(lines)).items()}
    for complaint in COMPLAINTS:
        for line in lines:
            if match := complaint.pattern.search(line):
                groups = {name: value or "a later one" for name, value in match.groupdict().items()}
                error = complaint.kind(complaint.message.format(**known, **groups), param=complaint.param)
                if isinstance(error, ContextTooLarge):
                    error.limit = int(groups["limit"])
                return error
    return None
