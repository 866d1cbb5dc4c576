"""What the toolkit writes: how far it is, what it says of the file, and errors by name with their remedies.

The lines were taken from reports by its users (releases 1.0 to 1.3.0), as the toolkit could not be run here:

    INFO: rkllm-toolkit version: 1.2.3
    Optimizing model:  88%|████████  | 28/32 [1:04:19<09:28, 142.23s/it]
    INFO: Setting max_context_limit to 4096
    [=====>     ] 300/597 (50%)
    ERROR: Catch exception when optimizing model: 'mlp.down_proj'

An error that no row of `PROBLEMS` knows is passed on as it is written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_BAR = re.compile(r"^\s*(?P<doing>[A-Z][\w ]*?):\s+(?P<percent>\d+)%\|.*?\|\s*(?P<done>\d+)/(?P<all>\d+)")
_EXPORT = re.compile(r"^\s*\[=*>?\s*\]\s*(?P<done>\d+)/(?P<all>\d+)")
_CONTEXT = re.compile(r"Setting max_context_limit to (\d+)")
_ERROR = re.compile(
    r"^\s*(?:E\b|ERROR\b|\w*Error:|Catch exception|Traceback|MemoryError|CUDA error)"
    r"|not supported in|\bKilled\b"
)


@dataclass(frozen=True)
class Problem:
    """A known error: what its line looks like, what is wrong, and what to do."""

    code: str
    pattern: str
    says: str
    remedy: str


PROBLEMS = (
    Problem(
        "disk_full",
        r"No space left on device|Not enough free space|Disk quota exceeded",
        "there was no room for a file",
        "Make room where -o leads and in the temporary folder (TMPDIR; in a container also /dev/shm), and "
        "run the same command again.",
    ),
    Problem(
        "out_of_gpu_memory",
        r"CUDA out of memory|OutOfMemoryError",
        "the GPU's memory was used up",
        "Use --device cpu, or --load-dtype float16.",
    ),
    Problem(
        "out_of_memory",
        r"MemoryError|Cannot allocate memory|can't allocate memory|not enough memory|DefaultCPUAllocator"
        r"|\bKilled\b",
        "memory was used up",
        "Use --load-dtype bfloat16, add swap, or convert on a machine with more memory.",
    ),
    Problem(
        "dtype_not_supported",
        r"quantized_dtype.*not supported in|not supported in '\w+'",
        "the toolkit has no such dtype for this platform",
        "Choose another -q: `rkllm-convert plan` shows the platform's.",
    ),
    Problem(
        "model_changed",
        r"when optimizing model: '[\w.]+'",
        "a layer that the toolkit expects is not in the model",
        "Merged or trained-over models may name their layers otherwise: save it with transformers' "
        "save_pretrained under its original architecture.",
    ),
    Problem(
        "tokenizer_unusable",
        r"sentencepiece_processor|tokenizer.*(?:not|fail|exist)|ParseFromArray",
        "the tokenizer's files cannot be read",
        "Fetch the model again with all its tokenizer files; newer families need a newer toolkit.",
    ),
    Problem(
        "dataset_unusable",
        r"JSONDecodeError|Dataset.*Error|when (?:reading|loading) (?:the )?dataset|Failed to load JSON",
        "the calibration data cannot be read",
        'It is a JSON list of {"input": prompt, "target": answer}.',
    ),
    Problem(
        "model_not_supported",
        r"(?:model|architecture|Architecture)\b.*not (?:be )?(?:supported|recogni[sz]ed)"
        r"|Unrecognized configuration|does not recognize this architecture",
        "the toolkit or its transformers does not know this architecture",
        "Install a newer toolkit: `rkllm-convert plan` shows which one knows it.",
    ),
    Problem(
        "library_missing",
        r"No module named|ModuleNotFoundError|cannot import name|undefined symbol|cannot open shared object",
        "a library of the toolkit is missing or of another version",
        "Install the requirements.txt that came with the toolkit's wheel.",
    ),
    Problem(
        "weights_damaged",
        r"SafetensorError|HeaderTooLarge|invalid load key|MetadataIncompleteBuffer|PytorchStreamReader",
        "the weights are damaged or incomplete",
        "Fetch the model again: a git clone without git-lfs has only pointers.",
    ),
    Problem(
        "no_gpu",
        r"Torch not compiled with CUDA|no CUDA-capable device|Found no NVIDIA driver|CUDA error",
        "there is no usable GPU",
        "Use --device cpu --algorithm normal.",
    ),
)


@dataclass(frozen=True)
class Progress:
    """How far a step of the toolkit's is."""

    doing: str
    done: int
    total: int


@dataclass
class Reader:
    """Takes the log line by line."""

    context: int | None = None
    """The context in tokens that the toolkit says it has made the file for."""
    errors: list[str] = field(default_factory=list)
    """Lines that tell of an error, at most the last twenty."""

    def feed(self, line: str) -> Progress | None:
        """The progress that a line tells of, if it does."""
        bar, export = _BAR.match(line), _EXPORT.match(line)
        if bar:
            return Progress(bar["doing"].strip(), int(bar["done"]), int(bar["all"]))
        if export:
            return Progress("Exporting model", int(export["done"]), int(export["all"]))
        context = _CONTEXT.search(line)
        if context:
            self.context = int(context[1])
        if _ERROR.search(line) or named(line):
            self.errors = [*self.errors[-19:], line.strip()]
        return None

    def problem(self) -> Problem | None:
        """The first of the errors that is known."""
        return next((found for found in map(named, self.errors) if found), None)


def named(line: str) -> Problem | None:
    """The problem that a line is of. Lines of other levels than an error are of none."""
    if re.match(r"\s*(?:INFO|WARNING|DEBUG|W|I)\b", line):
        return None
    return next((each for each in PROBLEMS if re.search(each.pattern, line)), None)
