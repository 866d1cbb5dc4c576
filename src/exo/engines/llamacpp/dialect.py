"""A request as llama.cpp's server reads it, and what it says as ours. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from exo.chat import Alternative, ChatRequest, Sampling, Timings, TokenLogprob, Usage
from exo.engines.llamacpp.server import PREFILL_STEP
from exo.errors import BadRequest, ContextLengthExceeded, EngineFailed, ExoError
from exo.generation.writing import Ended, Run

# Characters; a prompt that is no longer is certainly read in one step.
_LONG_PROMPT = PREFILL_STEP


def body(request: ChatRequest, run: Run, *, added: str, model: str, vocabulary: int) -> dict[str, Any]:
    """What is asked for a run of the request. `added` is the text that llama.cpp begins a conversation with
    by itself, `vocabulary` the number of the model's tokens.

    Raises `BadRequest` for a bias of a token beyond it, which llama.cpp drops.
    """
    # Twice would be out of the model's experience.
    prompt = run.prompt if request.prompt is not None else run.prompt.removeprefix(added)
    asked: dict[str, Any] = {
        "prompt": prompt,
        "stream": True,
        # Worth its price where a prefill may have to be cancelled, and where an answer may be broken off
        # before llama.cpp says how long its prompt was.
        "return_progress": run.open_end or len(prompt) > _LONG_PROMPT,
        "preserved_tokens": run.tags,
        **_sampling(request.sampling, model, vocabulary),
    }
    if run.limit is not None:
        asked["n_predict"] = run.limit
    if run.form:
        asked["grammar"] = run.form
    if request.logprobs is not None:
        # llama.cpp reports no chosen token without at least one alternative.
        asked["logprobs"] = max(1, request.logprobs)
    return asked


def _sampling(sampling: Sampling, model: str, vocabulary: int) -> dict[str, Any]:
    for token in sampling.logit_bias:
        if not 0 <= token < vocabulary:
            raise BadRequest(
                f"token {token} is not in the vocabulary of '{model}', which has {vocabulary}",
                param="logit_bias",
            )
    wanted = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repeat_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": None if sampling.seed is None else sampling.seed % (1 << 32),
        "logit_bias": [[token, bias] for token, bias in sampling.logit_bias.items()] or None,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def ended(chunk: Mapping[str, Any]) -> Ended:
    """What the last chunk says of the whole answer."""
    usage, timings = chunk["usage"], chunk.get("timings", {})
    return Ended(
        cut=chunk["choices"][0]["finish_reason"] == "length",
        usage=Usage(
            usage["prompt_tokens"],
            usage["completion_tokens"],
            cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
        ),
        timings=Timings(timings.get("prompt_ms", 0.0) / 1e3, timings.get("predicted_ms", 0.0) / 1e3),
    )


def logprobs(choice: Mapping[str, Any], top: int | None) -> Sequence[TokenLogprob]:
    """Those of a chunk's tokens, with `top` alternatives each; none where none are asked for."""
    if top is None or not choice["logprobs"]:
        return ()
    return [
        TokenLogprob(_alternative(entry), tuple(map(_alternative, entry["top_logprobs"][:top])))
        for entry in choice["logprobs"]["content"]
    ]


def _alternative(entry: Mapping[str, Any]) -> Alternative:
    return Alternative(entry["token"], entry["logprob"], tuple(entry["bytes"]))


def failure(error: Mapping[str, Any], *, model: str, context: int, param: str) -> ExoError:
    """llama.cpp's error object as ours. `param` is where the prompt came from; the model's context holds so
    many tokens."""
    message = str(error.get("message", error))
    if error.get("type") == "exceed_context_size_error" or "too large to process" in message:
        return ContextLengthExceeded(
            f"the prompt is {error.get('n_prompt_tokens', 'too many')} tokens long and the context of "
            f"'{model}' holds {context}",
            param=param,
        )
    if "grammar" in message:
        return BadRequest(f"the grammar does not parse: {message}", param="grammar")
    if error.get("code") == 400:
        return BadRequest(message)
    return EngineFailed(f"llama.cpp: {message}")
