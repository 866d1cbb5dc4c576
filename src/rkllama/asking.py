"""How a request is run: by the runtime itself where that can do what is asked, else token by token."""

from pathlib import Path

import msgspec

from exo.chat import ChatRequest, Sampling, filled, named
from exo.errors import BadRequest
from exo.generation.writing import Run
from rkllama.models import modelfile
from rkllama.vendor.abi import Release
from rkllama.vendor.asks import Ask, Prompt, Stepwise

# The runtime's documented defaults, set at every load so that it is known what a model was loaded with.
RUNTIME_DEFAULTS = Sampling(
    temperature=0.8, top_k=40, top_p=0.9, repeat_penalty=1.1, presence_penalty=0.0, frequency_penalty=0.0
)


def runs_with(sampling: Sampling) -> Sampling:
    """What the runtime is loaded with for a card's sampling: all named, and nothing beyond the runtime."""
    own = {name: value for name, value in named(sampling).items() if name in named(RUNTIME_DEFAULTS)}
    return msgspec.structs.replace(RUNTIME_DEFAULTS, **own)


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A model as it was loaded, by a runtime of `release`: `sampling` is for every run, unless the release
    `samples_per_run`. Its tokenizer.json belongs into `folder`."""

    model: str
    release: str
    samples_per_run: bool
    sampling: Sampling
    folder: Path


def ask_for(request: ChatRequest, run: Run, loaded: Loaded) -> Ask | Stepwise:
    """What the model's process is to do. Raises `BadRequest` naming the parameter that it cannot honour, and
    the remedy; nothing is left out silently."""
    wanted = msgspec.structs.replace(request.sampling, max_tokens=run.limit)
    beyond = _beyond_the_runtime(request, run, loaded)
    if beyond is None:
        sampling = msgspec.structs.replace(wanted, max_tokens=None) if loaded.samples_per_run else None
        return Ask(inputs=(Prompt(run.prompt),), sampling=sampling, max_tokens=wanted.max_tokens)
    has_logits = loaded.release != str(Release.V1_1)
    if has_logits and (loaded.folder / "tokenizer.json").is_file():
        return Stepwise(
            prompt=run.prompt,
            vocabulary=loaded.folder,
            sampling=filled(wanted, loaded.sampling),
            form=run.form,
            tags=run.tags,
            logprobs=request.logprobs,
        )
    remedies = [f"install release {Release.V1_2_0} or later"] if not has_logits else []
    remedies.append(f"put the tokenizer.json of '{loaded.model}' into {loaded.folder}")
    if (key := beyond.upper()) in modelfile.KEYS:
        remedies.append(f"or leave {beyond} out and set {key} in its Modelfile")
    raise BadRequest(
        f"{beyond} is more than the NPU runtime installed ({loaded.release}) does per request: "
        + ", ".join(remedies),
        param=beyond,
    )


def _beyond_the_runtime(request: ChatRequest, run: Run, loaded: Loaded) -> str | None:
    """The parameter that the runtime itself cannot honour, if there is one."""
    wanted = request.sampling
    if run.form is not None:
        if request.must_call:
            return "tool_choice"
        return "grammar" if request.json_schema is None else "response_format"
    if request.logprobs is not None:
        return "logprobs"
    for name in ("seed", "min_p", "logit_bias"):
        if getattr(wanted, name) not in (None, {}):
            return name
    if loaded.samples_per_run:
        return None
    for name, value in named(RUNTIME_DEFAULTS).items():
        asked = getattr(wanted, name)
        if asked is not None and asked != getattr(loaded.sampling, name, value):
            return name
    return None
