"""What is asked of a loaded model, and what it says: plain values, which cross to its process and back."""

from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from exo.chat import Sampling, TokenLogprob

Mode: TypeAlias = Literal["generate", "hidden", "logits"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is loaded; the names are the vendor's. None leaves a choice to the runtime.

    `max_context_len` is a multiple of 32 up to the file's own limit. `enabled_cpus` is a mask of CPU cores
    (0xF0: the fast ones of an RK3588), which releases before 1.2.0 choose themselves; `base_domain_id` is
    the NPU memory domain, `n_batch` how many inputs every run has. `sampling` holds for every run that
    brings none of its own; its `max_tokens` too, and without one an answer may fill the context.
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


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag="ask"):
    """One run: as many inputs as the handle's `n_batch`, answered together.

    `keep_history` lets this run continue the KV cache that the one before left. `max_tokens` ends the answer
    after so many tokens, in every release (with `n_batch` > 1 it needs 1.3.0). `sampling` needs release
    1.3.0, and changes only what it names; its own `max_tokens` counts where the run has none. `lora` is the
    name of an adapter loaded before. The prompt's KV cache is written to the file `save_prompt_cache`.
    """

    inputs: tuple[Prompt | Tokens, ...]
    mode: Mode = "generate"
    keep_history: bool = False
    max_tokens: int | None = None
    sampling: Sampling | None = None
    lora: str | None = None
    save_prompt_cache: Path | None = None


class Stepwise(msgspec.Struct, frozen=True, kw_only=True, tag="stepwise"):
    """An answer drawn token by token from the logits mode, for what the runtime itself cannot do.

    It needs release 1.2.0. `prompt` is raw text: special tokens in it are that, and no template is applied.
    `vocabulary` is the folder of the model's tokenizer.json. Every field of `sampling` is honoured. `form`
    and `tags` are as in `exo.generation.writing.Run`; `logprobs` is as in `exo.chat.ChatRequest`.
    """

    prompt: str
    vocabulary: Path
    sampling: Sampling = Sampling()
    form: str | None = None
    tags: tuple[str, ...] = ()
    logprobs: int | None = None


class Embed(msgspec.Struct, frozen=True, tag="embed"):
    """The vector of a text: the mean of its tokens' last hidden states, L2-normalised."""

    text: str


AnyAsk: TypeAlias = Ask | Stepwise | Embed


class Token(msgspec.Struct, frozen=True, tag="token"):
    """The next token of the answer to input number `slot`, with its text.

    That is whole UTF-8 characters in an `Ask`; in a `Stepwise` it is the token's own bytes, which may end
    within a character. `logprobs` come from a `Stepwise` that asked for them.
    """

    text: bytes
    id: int
    slot: int = 0
    logprobs: TokenLogprob | None = None


class Waiting(msgspec.Struct, frozen=True, tag="waiting"):
    """A token was made whose text comes with a later one, as it ends within a character."""

    id: int
    slot: int = 0


class Floats(msgspec.Struct, frozen=True, tag="floats"):
    """Last hidden states, a row per token, or logits, the last token's row only.

    `memoryview(values).cast("f", (rows, columns))` is how to read them.
    """

    values: bytes
    rows: int
    columns: int
    slot: int = 0


class SlotDone(msgspec.Struct, frozen=True, tag="slot_done"):
    """The answer to input number `slot` is complete while others go on."""

    slot: int


class Vector(msgspec.Struct, frozen=True, tag="vector"):
    """What an `Embed` asked for: a vector of length 1, made of the text's `tokens` tokens."""

    values: tuple[float, ...]
    tokens: int


class Perf(msgspec.Struct, frozen=True):
    """The figures of one run, in seconds and megabytes.

    The runtime's own; of a `Stepwise`, which is many runs, measured here, with 0 megabytes from a release
    that does not tell them.
    """

    prefill_tokens: int
    prefill_seconds: float
    generate_tokens: int
    generate_seconds: float
    memory_mb: float


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """How a run ended. `perf` is known from release 1.2.1, and not for every aborted run.

    `cut` is an answer that max_tokens ended, or a full context; the latter shows in `context_tokens` only.
    Those are the tokens in the KV cache at the end, prompt and answer, of the fullest slot; None where the
    release cannot tell (before 1.2.1).
    """

    perf: Perf | None = None
    aborted: bool = False
    cut: bool = False
    context_tokens: int | None = None


Event: TypeAlias = Token | Waiting | Floats | SlotDone | Vector
