"""The vendor's runtime as ctypes sees it, declared by the tables in `abi/`: nothing in it is our guess.

`Library` loads a stand-in of one release; `Handle` makes runs and keeps what the callback was given.
"""

import ctypes
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ABI = Path(__file__).parents[1] / "abi"
RELEASES = ("1.1.4", "1.2.0", "1.2.3", "1.3.0")
NORMAL, WAITING, FINISH, ERROR, OLD_HIDDEN = range(5)
GENERATE, HIDDEN, LOGITS = range(3)

PLAIN: dict[str, Any] = {
    "int": ctypes.c_int,
    "bool": ctypes.c_bool,
    "float": ctypes.c_float,
    "size_t": ctypes.c_size_t,
    "int8_t": ctypes.c_int8,
    "uint8_t": ctypes.c_uint8,
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "char*": ctypes.c_char_p,
    "const char*": ctypes.c_char_p,
    "float*": ctypes.POINTER(ctypes.c_float),
    "const float*": ctypes.POINTER(ctypes.c_float),
    "int32_t*": ctypes.POINTER(ctypes.c_int32),
}


@cache
def table(release: str) -> dict[str, Any]:
    """What the vendor's header of a release declares."""
    read: dict[str, Any] = json.loads((ABI / f"abi_{release}.json").read_text())
    return read


class Types:
    """The structs of one release as ctypes classes, by name."""

    def __init__(self, release: str) -> None:
        self.known: dict[str, Any] = {}
        for name, struct in table(release)["structs"].items():
            self.known[name] = self._made(name, struct["fields"], ctypes.Structure)
        for name, struct in table(release)["structs"].items():
            assert ctypes.sizeof(self.known[name]) == struct["sizeof"], name

    def __getattr__(self, name: str) -> Any:
        return self.known[name]

    def _made(self, name: str, fields: Sequence[dict[str, Any]], base: Any) -> Any:
        anonymous = [f["name"] for f in fields if f["name"].startswith("<")]
        body: dict[str, Any] = {"_fields_": [(f["name"], self._type(f)) for f in fields]}
        if anonymous:
            body["_anonymous_"] = anonymous
        return type(name, (base,), body)

    def _type(self, field: dict[str, Any]) -> Any:
        ctype = field["ctype"]
        if "fields" in field:
            base = ctypes.Union if field["kind"] == "union" else ctypes.Structure
            return self._made(ctype, field["fields"], base)
        if ctype.endswith("]"):
            element, count = ctype[:-1].split("[")
            return PLAIN[element] * int(count)
        if ctype in PLAIN:
            return PLAIN[ctype]
        if ctype in self.known:
            return self.known[ctype]
        return ctypes.c_int if field["size"] == 4 else ctypes.c_void_p  # enums, pointers


@dataclass
class Event:
    """What one callback was given, copied: the originals die with it."""

    state: int
    tokens: list[int]
    texts: list[bytes | None]
    logits: list[list[float]] = field(default_factory=list)
    hidden: list[list[float]] = field(default_factory=list)
    perf: dict[str, float] = field(default_factory=dict)


class Library:
    def __init__(self, release: str, path: Path) -> None:
        self.release = release
        self.number = tuple(map(int, release.split(".")))
        self.types = Types(release)
        self.lib = ctypes.CDLL(str(path))
        self.lib.rkllm_createDefaultParam.restype = self.types.RKLLMParam
        answer = ctypes.c_int if self.number >= (1, 2, 1) else None
        self.callback_type = ctypes.CFUNCTYPE(
            answer, ctypes.POINTER(self.types.RKLLMResult), ctypes.c_void_p, ctypes.c_int
        )

    def start(self, model: Path, *, callbacks: dict[str, Any] | None = None, **settings: Any) -> "Handle":
        """A handle, greedy unless told otherwise. Raises `OSError` when the library refuses."""
        return Handle(self, model, callbacks or {}, settings)


class Handle:
    def __init__(
        self, library: Library, model: Path, callbacks: dict[str, Any], settings: dict[str, Any]
    ) -> None:
        self.library = library
        self.lib, self.types = library.lib, library.types
        self.events: list[Event] = []
        self.on_event: Callable[[Event], int] = lambda event: 0
        self.on_userdata: Callable[[int | None], object] = lambda userdata: None
        self.raw: Any = None  # the last result pointer, for those who want to misuse it
        param = self.lib.rkllm_createDefaultParam()
        param.model_path = str(model).encode()
        greedy = {"max_context_len": 2048, "max_new_tokens": -1, "top_k": 1, "repeat_penalty": 1.0}
        self.slots = settings.pop("n_batch", 1)
        if self.slots > 1:
            param.extend_param.n_batch = self.slots
        for name, value in (greedy | settings).items():
            setattr(param, name, value)
        self._callback = library.callback_type(self._called)
        third: Any = self._callback
        if library.number >= (1, 3, 0):
            third = self.types.RKLLMCallback(
                result_callback=ctypes.cast(self._callback, ctypes.c_void_p).value,
                **{name: ctypes.cast(f, ctypes.c_void_p).value for name, f in callbacks.items()},
            )
            self._kept = callbacks
            third = ctypes.byref(third)
        self.pointer = ctypes.c_void_p()
        code = self.lib.rkllm_init(ctypes.byref(self.pointer), ctypes.byref(param), third)
        if code:
            raise OSError(code, "rkllm_init")

    def __enter__(self) -> "Handle":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> int:
        code = self.lib.rkllm_destroy(self.pointer)
        if not code:
            self.pointer = ctypes.c_void_p()
        return int(code)

    def run(
        self,
        *inputs: str | Sequence[int],
        mode: int = GENERATE,
        asynchronous: bool = False,
        thinking: bool = True,
        role: str | None = None,
        cache: tuple[str, bool] | None = None,
        sampling: dict[str, Any] | None = None,
        userdata: int | None = None,
        **param: Any,
    ) -> int:
        """One run; its events are in `events`, which begins anew."""
        self.events = []
        given = (self.types.RKLLMInput * len(inputs))()
        for one, content in zip(given, inputs, strict=True):
            self._fill(one, content, thinking, role)
        infer = self.types.RKLLMInferParam(mode=mode, **param)
        if cache:
            own = self.types.RKLLMPromptCacheParam(prompt_cache_path=cache[0].encode())
            own.save_prompt_cache = cache[1]
            infer.prompt_cache_params = ctypes.addressof(own)
        if sampling:
            chosen = self.types.RKLLMSamplingParam(**sampling)
            infer.sampling_params = ctypes.addressof(chosen)
        run = self.lib.rkllm_run_async if asynchronous else self.lib.rkllm_run
        return int(run(self.pointer, given, ctypes.byref(infer), ctypes.c_void_p(userdata)))

    def ask(self, *inputs: str | Sequence[int], **options: Any) -> list[int]:
        """The tokens of an answer that went well."""
        assert self.run(*inputs, **options) == 0
        assert self.events[-1].state == FINISH
        return self.tokens()

    def tokens(self, slot: int = 0) -> list[int]:
        return [event.tokens[slot] for event in self.events if event.tokens[slot] >= 0]

    def text(self, slot: int = 0) -> str:
        return b"".join(event.texts[slot] or b"" for event in self.events).decode()

    def cached(self) -> int:
        sizes = (ctypes.c_int * self.slots)()
        assert self.lib.rkllm_get_kv_cache_size(self.pointer, sizes) == 0
        return int(sizes[0])

    def template(self, system: str, prefix: str, postfix: str) -> int:
        parts = (part.encode() for part in (system, prefix, postfix))
        return int(self.lib.rkllm_set_chat_template(self.pointer, *parts))

    def _fill(self, one: Any, content: str | Sequence[int], thinking: bool, role: str | None) -> None:
        if self.library.number >= (1, 2, 1):
            one.enable_thinking = thinking
            one.role = role.encode() if role else None
        if isinstance(content, str):
            one.input_type, one.prompt_input = 0, content.encode()
        else:
            ids = (ctypes.c_int32 * max(1, len(content)))(*content)
            one.input_type = 1
            one.token_input.input_ids = ids
            one.token_input.n_tokens = len(content)

    def _called(self, results: Any, userdata: Any, state: int) -> int:
        self.raw = results
        self.on_userdata(userdata)
        event = Event(state, [], [])
        for slot in range(self.slots):
            result = results[slot]
            event.tokens.append(result.token_id if state in (NORMAL, WAITING) else -1)
            event.texts.append(result.text)
            layer = result.last_hidden_layer
            event.hidden.append(layer.hidden_states[: layer.num_tokens * layer.embd_size])
            if self.library.number >= (1, 2, 0):
                event.logits.append(
                    result.logits.logits[: result.logits.num_tokens * result.logits.vocab_size]
                )
        if self.library.number >= (1, 2, 1):
            perf = results[0].perf
            event.perf = {name: getattr(perf, name) for name, *_ in perf._fields_}
        self.events.append(event)
        return self.on_event(event)
