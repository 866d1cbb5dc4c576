"""What is asked of a loaded model, and what it says: plain values, which cross to its process and back."""

from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from exo.chat import Sampling

Mode: TypeAlias = Literal["generate", "hidden", "logits"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is loaded; the names are the vendor's. None leaves a choice to the runtime.

    `max_context_len` is a multiple of 32 up to the file's own limit. `enabled_cpus` is a mask of CPU cores
    (0xF0: the fast ones of an RK3588), `base_domain_id` the NPU memory domain, `n_batch` how many inputs
    every run has. `sampling` holds for every run that brings none of its own; its `max_tokens` too.
    """

    model: Path
    max_context_len: int | None = None
    n_keep: int | None = None
    skip_special_token: bool | None = None
    ignore_eos_token: bool | None = None
    base_domain_id: int | None = None
    embed_flash: bool | None = None
    enabled_cpus: int | None = None
    n_batch: int | None = None
    sampling: Sampling = Sampling()


class Prompt(msgspec.Struct, frozen=True, tag="prompt"):
    """Text that the runtime puts into the model's chat template (from 1.2.0; before, it stays as it is).

    `thinking` switches Qwen3-style thinking; None is off, as the interface has no third choice.
    """

    text: str
    role: Literal["user", "tool"] = "user"
    thinking: bool | None = None


class Tokens(msgspec.Struct, frozen=True, tag="tokens"):
    """Token ids, which go to the model as they are."""

    ids: tuple[int, ...]


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One run: as many inputs as the handle's `n_batch`, answered together.

    `keep_history` lets this run continue the KV cache that the one before left. `sampling` needs release
    1.3.0, and changes only what it names. `lora` is the name of an adapter loaded before. The prompt's KV
    cache is written to the file `save_prompt_cache`.
    """

    inputs: tuple[Prompt | Tokens, ...]
    mode: Mode = "generate"
    keep_history: bool = False
    sampling: Sampling | None = None
    lora: str | None = None
    save_prompt_cache: Path | None = None


class Token(msgspec.Struct, frozen=True, tag="token"):
    """The next token of the answer to input number `slot`, with its text: whole UTF-8 characters."""

    text: bytes
    id: int
    slot: int = 0


class Waiting(msgspec.Struct, frozen=True, tag="waiting"):
    """A token was made whose text comes with a later one, as it ends within a character."""

    id: int
    slot: int = 0


class Floats(msgspec.Struct, frozen=True, tag="floats"):
    """Logits or last hidden states, a row per token: `memoryview(values).cast("f", (rows, columns))`."""

    values: bytes
    rows: int
    columns: int
    slot: int = 0


class SlotDone(msgspec.Struct, frozen=True, tag="slot_done"):
    """The answer to input number `slot` is complete while others go on."""

    slot: int


class Perf(msgspec.Struct, frozen=True):
    """The runtime's own figures for one run, in seconds and megabytes."""

    prefill_tokens: int
    prefill_seconds: float
    generate_tokens: int
    generate_seconds: float
    memory_mb: float


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """How a run ended. `perf` is known from release 1.2.1, and not for every aborted run."""

    perf: Perf | None = None
    aborted: bool = False


Event: TypeAlias = Token | Waiting | Floats | SlotDone
