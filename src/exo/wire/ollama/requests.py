"""What Ollama's clients ask: request bodies to values.

`decode_*` turn a body into what was asked, or raise `BadRequest` with `param` naming the key at fault; they
raise nothing else, whatever the bytes. Types and ranges are checked by the structs of `request_types`.
"""

import re

import msgspec
from msgspec import UNSET, UnsetType

from exo.cards import ModelCard, Recipe
from exo.chat import ChatRequest, EmbedRequest, JsonSchema, Message, Sampling, Tool
from exo.errors import BadRequest
from exo.wire import schemas
from exo.wire.efforts import effort
from exo.wire.json import Reader
from exo.wire.ollama import request_types as types
from exo.wire.ollama.calls import AskCall, CreateCall, EmbedCall, PullCall
from exo.wire.ollama.history import messages
from exo.wire.tools import offered

_CHAT = Reader(types.OllamaChat)
_GENERATE = Reader(types.OllamaGenerate)
_EMBED = Reader(types.OllamaEmbed)
_EMBEDDINGS = Reader(types.OllamaEmbeddings)
_SHOW = Reader(types.OllamaShow)
_DELETE = Reader(types.OllamaDelete)
_PULL = Reader(types.OllamaPull)
_CREATE = Reader(types.OllamaCreate)

# Options that would change the text: the value that leaves it as it is, and why no other can be had.
_FIXED: dict[str, tuple[float | bool, str]] = {
    "mirostat": (0, "this server has no mirostat; use temperature, top_p and min_p"),
    "tfs_z": (1, "this server has no tail-free sampling; use min_p"),
    "typical_p": (1, "this server has no typical sampling; use min_p"),
    "repeat_last_n": (64, "penalties look at the last 64 tokens"),
    "penalize_newline": (True, "penalties spare no token"),
    "vocab_only": (False, "a model without its weights says nothing"),
    "embedding_only": (False, "a model is loaded for whatever it is asked"),
}

_LONGEST_NAME = 256
_FOR_EVER = 1e9  # seconds, 31 years: nobody tells the difference, and clocks do not overflow
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_DURATION = re.compile(r"([+-]?)((?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|ms|s|m|h))+)")
_PART = re.compile(r"([0-9.]+)(ns|us|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def decode_chat(body: bytes, *, id: str) -> AskCall:
    asked = _CHAT.read(body)
    request = msgspec.structs.replace(
        _request(asked, id), messages=tuple(messages(asked.messages or [])), tools=_tools(asked)
    )
    return _call(asked, request)


def decode_generate(body: bytes, *, id: str) -> AskCall:
    asked = _GENERATE.read(body)
    if asked.images:
        raise BadRequest("images are not supported: this server reads text only", param="images")
    if asked.context:
        raise BadRequest(
            "context is not supported: send the conversation to /api/chat as messages", param="context"
        )
    request = _request(asked, id)
    if asked.raw:
        for key, value in (("system", asked.system), ("think", request.thinking)):
            if value:
                raise BadRequest(f"{key} has no place in a raw prompt: put it into the text", param=key)
        request = msgspec.structs.replace(
            request, prompt=asked.prompt or None, thinking=None, thinking_budget=None
        )
    elif asked.prompt:
        system = (Message("system", asked.system),) if asked.system else ()
        request = msgspec.structs.replace(request, messages=(*system, Message("user", asked.prompt)))
    return _call(asked, request)


def decode_embed(body: bytes, *, id: str) -> EmbedCall:
    asked = _EMBED.read(body)
    texts = ((asked.input,) if asked.input else ()) if isinstance(asked.input, str) else tuple(asked.input)
    return _embed_call(asked, texts, id)


def decode_embeddings(body: bytes, *, id: str) -> EmbedCall:
    asked = _EMBEDDINGS.read(body)
    return _embed_call(asked, (asked.prompt,) if asked.prompt else (), id)


def decode_show(body: bytes) -> str:
    """The model's name."""
    return _name(_SHOW.read(body))


def decode_delete(body: bytes) -> str:
    """The model's name."""
    return _name(_DELETE.read(body))


def decode_pull(body: bytes) -> PullCall:
    asked = _PULL.read(body)
    if asked.insecure:
        raise BadRequest("insecure must be false: models come over verified connections", param="insecure")
    return PullCall(_name(asked), asked.stream is not False)


def decode_create(body: bytes) -> CreateCall:
    asked = _CREATE.read(body)
    for key, value, remedy in (
        ("messages", asked.messages, "send them with each chat"),
        ("license", asked.license, "keep it beside the model's files"),
        ("files", asked.files, "put .gguf files into the node's models folder"),
        ("adapters", asked.adapters, "merge them into the weights"),
    ):
        if value:
            raise BadRequest(f"{key} is not supported: {remedy}", param=key)
    if not asked.base:
        raise BadRequest('"from" is required: the model whose files are used', param="from")
    options = asked.parameters or types.OllamaOptions()
    if options.stop:
        raise BadRequest(
            "a model keeps no stop strings: send them with each request", param="parameters.stop"
        )
    recipe = Recipe(
        base=asked.base,
        system=asked.system or "",
        sampling=_sampling(options, "parameters"),
        context=options.num_ctx,
    )
    return CreateCall(_name(asked), recipe, asked.stream is not False)


def check_context(wanted: int | None, card: ModelCard) -> None:
    """Raises `BadRequest` where a call wants more context than the model has. A model elsewhere (its card
    says 0) sees to that itself."""
    if wanted is not None and 0 < card.context < wanted:
        raise BadRequest(
            f"options.num_ctx is {wanted} and the context of '{card.id}' holds {card.context}: ask for no "
            "more, or leave it out",
            param="options.num_ctx",
        )


def keep_alive(given: float | str | None) -> float | UnsetType | None:
    """Seconds, None for ever, UNSET where nothing is given.

    A text is a number of seconds or one of Go's durations ("1h30m", "300ms"), as Ollama takes them; whatever
    is negative, and what is longer than anybody waits, is for ever.
    """
    if given is None:
        return UNSET
    seconds = _seconds(given) if isinstance(given, str) else given
    return None if seconds < 0 or seconds > _FOR_EVER else seconds


def _seconds(text: str) -> float:
    if _NUMBER.fullmatch(text):
        return float(text)
    if not (duration := _DURATION.fullmatch(text)):
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        raise BadRequest(
            f'keep_alive "{shown}" is no duration: send seconds, or "5m", "1h30m", "-1" for ever',
            param="keep_alive",
        )
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(duration[2]))
    return -seconds if duration[1] == "-" else seconds


def _call(asked: types.Generation, request: ChatRequest) -> AskCall:
    return AskCall(
        request=request,
        stream=asked.stream is not False,
        keep_alive=keep_alive(asked.keep_alive),
        context=asked.options.num_ctx if asked.options else None,
    )


def _embed_call(
    asked: types.OllamaEmbed | types.OllamaEmbeddings, texts: tuple[str, ...], id: str
) -> EmbedCall:
    options = asked.options or types.OllamaOptions()
    _sampling(options, "options")
    request = EmbedRequest(model=asked.model, texts=texts, id=id)
    return EmbedCall(request=request, keep_alive=keep_alive(asked.keep_alive), context=options.num_ctx)


def _request(asked: types.Generation, id: str) -> ChatRequest:
    """What is asked, but for the conversation."""
    if asked.top_logprobs is not None and not asked.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    options = asked.options or types.OllamaOptions()
    thinking, budget = effort(asked.think) if isinstance(asked.think, str) else (asked.think, None)
    return ChatRequest(
        id=id,
        model=asked.model,
        sampling=_sampling(options, "options"),
        stop=(options.stop,) if isinstance(options.stop, str) else tuple(options.stop or ()),
        logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        json_schema=_schema(asked.format),
        thinking=thinking,
        thinking_budget=budget,
    )


def _sampling(options: types.OllamaOptions, place: str) -> Sampling:
    for name, (only, why) in _FIXED.items():
        if getattr(options, name) not in (None, only):
            shown = msgspec.json.encode(only).decode()
            raise BadRequest(f"{place}.{name} must be {shown}: {why}", param=f"{place}.{name}")
    if options.num_predict == 0:
        raise BadRequest(
            f"{place}.num_predict must be at least 1, or -1 for no limit", param=f"{place}.num_predict"
        )
    limit = options.num_predict
    return Sampling(
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        repeat_penalty=options.repeat_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        seed=None if options.seed == -1 else options.seed,
        max_tokens=limit if limit is not None and limit > 0 else None,
    )


def _schema(format: types.Format | None) -> JsonSchema | None:
    if not isinstance(format, dict):
        return {"type": "object"} if format else None
    schemas.check(format, "format")
    return format


def _tools(asked: types.OllamaChat) -> tuple[Tool, ...]:
    sent = [each.function for each in asked.tools or ()]
    tools = offered(
        (f"tools[{i}].function", Tool(function.name, function.description or "", function.parameters or {}))
        for i, function in enumerate(sent)
    )
    return tuple(tools.values())


def _name(asked: types.Named) -> str:
    name = asked.model or asked.name or ""
    if not name:
        raise BadRequest("model is required", param="model")
    if asked.model and asked.name and asked.model != asked.name:
        raise BadRequest("name contradicts model: give only model", param="name")
    if len(name) > _LONGEST_NAME:
        raise BadRequest(f"model must be at most {_LONGEST_NAME} characters long", param="model")
    return name
