"""Models that are known by short names, and where each is on the hub.

Ids that the first exo had are kept ("llama-3.2-1b", "deepseek-r1-distill-qwen-7b"). There one id stood for
the 4-bit weights of MLX and the full ones of tinygrad; here an id is the full weights, which every engine for
safetensors loads, and the same with "-4bit" those of mlx-lm. The NPU server's models have ids of their own:
see `http.upstream`. Repositories are the makers' own where they are open to everybody; names of files and
lengths of contexts are the makers' and quantizers', as of 2026, and were not tried one by one. Whatever is
not in this table is downloaded by the name of its repository.

Other packages add to it with entry points of the group `exo.models`: see docs/MODELS.md.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Literal, TypeAlias

import msgspec

from exo.cards import Capability, Format

log = logging.getLogger(__name__)

GROUP = "exo.models"

Thinking: TypeAlias = Literal["", "always", "on request"]
Tools: TypeAlias = Literal["", "hermes", "llama", "mistral"]
"""How a model writes its calls: as `<tool_call>` with JSON in it, as bare JSON, or behind [TOOL_CALLS]. It
is for those who choose a model; `calls.style_of` reads it from the chat template."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A model by a short name. `sources` are "USER/REPO" or "USER/REPO:FILE.gguf" by format, `context` what
    it was made for, in tokens."""

    id: str
    name: str
    sources: Mapping[Format, str]
    context: int
    thinking: Thinking = ""
    tools: Tools = ""

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        thinking: tuple[Capability, ...] = ("thinking",) if self.thinking else ()
        tools: tuple[Capability, ...] = ("tools",) if self.tools else ()
        return ("completion", *thinking, *tools)


def find(id: str) -> Known | None:
    """The model of that short name, if it is known, in this table or in another package's."""
    return built_in(id) or _others().get(id)


def built_in(id: str) -> Known | None:
    """The model of that short name in this table. Loads no other package."""
    return _own().get(id)


def everyone() -> Sequence[Known]:
    """All that are known, by id."""
    known = {**_others(), **_own()}
    return [known[id] for id in sorted(known)]


@cache
def _own() -> Mapping[str, Known]:
    rows = (*_qwen(), *_llama(), *_deepseek(), *_others_makers())
    return {known.id: known for known in rows}


@cache
def _others() -> Mapping[str, Known]:
    """What other packages know. One that is broken is logged, and left out."""
    found: dict[str, Known] = {}
    for point in entry_points(group=GROUP):
        try:
            found |= {known.id: known for known in msgspec.convert(list(point.load()()), list[Known])}
        except Exception as error:
            log.warning(
                "left out the models of %s (%s): %s", distribution(point), point.name, error or repr(error)
            )
    return found


def distribution(point: EntryPoint) -> str:
    """The package that an entry point is of, with its release."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed package"


def _pair(known: Known, mlx: str = "") -> Iterator[Known]:
    """The model, and the same in 4 bits for MLX, if there is one."""
    yield known
    if mlx:
        yield msgspec.structs.replace(
            known, id=f"{known.id}-4bit", name=f"{known.name} (4 bit)", sources={"safetensors": mlx}
        )


def _qwen() -> Iterator[Known]:
    for size in ("0.5B", "1.5B", "3B", "7B", "14B", "32B", "72B"):
        model = f"Qwen2.5-{size}-Instruct"
        # Beyond 3B the maker's own GGUF files come in parts.
        own = f"Qwen/{model}-GGUF:{model.lower()}-q4_k_m.gguf"
        single = f"bartowski/{model}-GGUF:{model}-Q4_K_M.gguf"
        sources: dict[Format, str] = {"safetensors": f"Qwen/{model}"}
        if size != "72B":
            sources["gguf"] = own if size in ("0.5B", "1.5B", "3B") else single
        yield from _pair(
            Known(
                id=f"qwen-2.5-{size.lower()}",
                name=f"Qwen 2.5 {size}",
                sources=sources,
                context=32768,
                tools="hermes",
            ),
            f"mlx-community/{model}-4bit",
        )
    for size, quantization in (
        ("0.6B", "Q8_0"),
        ("1.7B", "Q8_0"),
        ("4B", "Q4_K_M"),
        ("8B", "Q4_K_M"),
        ("14B", "Q4_K_M"),
        ("32B", "Q4_K_M"),
    ):
        model = f"Qwen3-{size}"
        yield from _pair(
            Known(
                id=f"qwen3-{size.lower()}",
                name=f"Qwen 3 {size}",
                sources={
                    "gguf": f"Qwen/{model}-GGUF:{model}-{quantization}.gguf",
                    "safetensors": f"Qwen/{model}",
                },
                context=40960,
                thinking="on request",
                tools="hermes",
            ),
            f"mlx-community/{model}-4bit",
        )


def _llama() -> Iterator[Known]:
    # Meta's own repositories are gated.
    for release, size, prefix in (
        ("3.1", "8B", "Meta-"),
        ("3.2", "1B", ""),
        ("3.2", "3B", ""),
        ("3.3", "70B", ""),
    ):
        model = f"Llama-{release}-{size}-Instruct"
        gguf = f"bartowski/{prefix}{model}-GGUF:{prefix}{model}-Q4_K_M.gguf"
        yield from _pair(
            Known(
                id=f"llama-{release}-{size.lower()}",
                name=f"Llama {release} {size}",
                sources={"gguf": gguf, "safetensors": f"unsloth/{prefix}{model}"},
                context=131072,
                tools="llama",
            ),
            f"mlx-community/{prefix}{model}-4bit",
        )


def _deepseek() -> Iterator[Known]:
    for base, size in (
        ("Qwen", "1.5B"),
        ("Qwen", "7B"),
        ("Qwen", "14B"),
        ("Qwen", "32B"),
        ("Llama", "8B"),
        ("Llama", "70B"),
    ):
        model = f"DeepSeek-R1-Distill-{base}-{size}"
        yield from _pair(
            Known(
                id=model.lower(),
                name=f"DeepSeek R1 Distill {base} {size}",
                sources={
                    "gguf": f"bartowski/{model}-GGUF:{model}-Q4_K_M.gguf",
                    "safetensors": f"deepseek-ai/{model}",
                },
                context=131072,
                thinking="always",
            ),
            "" if size == "1.5B" else f"mlx-community/{model}-4bit",
        )


def _others_makers() -> Iterator[Known]:
    """Those whose layers no engine for safetensors here computes, and Mistral, whose own repositories are
    gated."""
    rows: tuple[tuple[str, str, str, int, Tools], ...] = (
        (
            "phi-3-mini",
            "Phi 3 Mini",
            "microsoft/Phi-3-mini-4k-instruct-gguf:Phi-3-mini-4k-instruct-q4.gguf",
            4096,
            "",
        ),
        (
            "phi-3.5-mini",
            "Phi 3.5 Mini",
            "bartowski/Phi-3.5-mini-instruct-GGUF:Phi-3.5-mini-instruct-Q4_K_M.gguf",
            131072,
            "",
        ),
        ("phi-4", "Phi 4", "bartowski/phi-4-GGUF:phi-4-Q4_K_M.gguf", 16384, ""),
        ("gemma2-2b", "Gemma 2 2B", "bartowski/gemma-2-2b-it-GGUF:gemma-2-2b-it-Q4_K_M.gguf", 8192, ""),
        ("gemma2-9b", "Gemma 2 9B", "bartowski/gemma-2-9b-it-GGUF:gemma-2-9b-it-Q4_K_M.gguf", 8192, ""),
        ("gemma2-27b", "Gemma 2 27B", "bartowski/gemma-2-27b-it-GGUF:gemma-2-27b-it-Q4_K_M.gguf", 8192, ""),
        ("gemma3-1b", "Gemma 3 1B", "ggml-org/gemma-3-1b-it-GGUF:gemma-3-1b-it-Q4_K_M.gguf", 32768, ""),
        ("gemma3-4b", "Gemma 3 4B", "ggml-org/gemma-3-4b-it-GGUF:gemma-3-4b-it-Q4_K_M.gguf", 131072, ""),
        (
            "mistral-7b",
            "Mistral 7B",
            "bartowski/Mistral-7B-Instruct-v0.3-GGUF:Mistral-7B-Instruct-v0.3-Q4_K_M.gguf",
            32768,
            "mistral",
        ),
        (
            "mistral-nemo",
            "Mistral Nemo",
            "bartowski/Mistral-Nemo-Instruct-2407-GGUF:Mistral-Nemo-Instruct-2407-Q4_K_M.gguf",
            131072,
            "mistral",
        ),
    )
    for id, name, gguf, context, tools in rows:
        yield Known(id=id, name=name, sources={"gguf": gguf}, context=context, tools=tools)
    yield Known(
        id="mistral-7b-4bit",
        name="Mistral 7B (4 bit)",
        sources={"safetensors": "mlx-community/Mistral-7B-Instruct-v0.3-4bit"},
        context=32768,
        tools="mistral",
    )
