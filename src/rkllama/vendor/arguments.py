"""Values in, C structs out, for whichever release is installed.

What the release does not have, or C would cut short, is refused, never dropped. What a zero means in a
struct is documented nowhere, so nothing is left at zero that has a default.
"""

import ctypes
from collections.abc import Mapping
from typing import Any

import msgspec

from exo.chat import Sampling
from exo.errors import BadRequest, ContextLengthExceeded
from rkllama.vendor.abi import RECORDS, Release
from rkllama.vendor.asks import Ask, Mode, Options, Prompt
from rkllama.vendor.library import Library

_MODES: Mapping[Mode, str] = {
    "generate": "RKLLM_INFER_GENERATE",
    "hidden": "RKLLM_INFER_GET_LAST_HIDDEN_LAYER",
    "logits": "RKLLM_INFER_GET_LOGITS",
}


class Arguments:
    """Makes the structs of one model's calls. They keep alive all that they point to."""

    def __init__(self, library: Library, options: Options) -> None:
        self._abi, self._options = library.abi, options
        self._release = library.release
        self._defaults = library.cdll.rkllm_createDefaultParam()
        self.n_batch: int = options.n_batch or 1
        self.counts_tokens = self._release < Release.V1_3 and self.n_batch == 1
        """Whether `max_tokens` is for the caller to keep: before 1.3.0 the runtime takes one at load only."""
        self.param = library.cdll.rkllm_createDefaultParam()
        """The RKLLMParam to load the model with."""
        self._fill_param()

    def inputs(self, ask: Ask) -> Any:
        """An array of RKLLMInput."""
        if len(ask.inputs) != self.n_batch:
            raise BadRequest(f"{len(ask.inputs)} inputs were given where n_batch is {self.n_batch}.")
        types = self._abi.enums["RKLLMInputType"]
        inputs = (self._abi.structs["RKLLMInput"] * self.n_batch)()
        for filled, given in zip(inputs, ask.inputs, strict=True):
            if isinstance(given, Prompt):
                filled.input_type = types["RKLLM_INPUT_PROMPT"]
                filled.prompt_input = text(given.text, "prompt")
                implied = given.role == "user" and self._release < Release.V1_2_1
                self._set(
                    filled, role=None if implied else given.role.encode(), enable_thinking=given.thinking
                )
            else:
                filled.input_type = types["RKLLM_INPUT_TOKEN"]
                self._fill_tokens(filled.token_input, given.ids)
        return inputs

    def max_tokens(self, ask: Ask) -> int | None:
        """After how many tokens an answer to `ask` ends; None if only the context limits it."""
        of_run = ask.sampling.max_tokens if ask.sampling and ask.max_tokens is None else ask.max_tokens
        if of_run is None:
            return self._options.sampling.max_tokens
        if of_run < 1:
            raise BadRequest("An answer has at least one token.", param="max_tokens")
        if self._release < Release.V1_3 and not self.counts_tokens:
            raise BadRequest(
                f"The NPU runtime installed ({self._release}) cannot limit a run's tokens where n_batch > 1; "
                f"that needs {Release.V1_3}.",
                param="max_tokens",
            )
        return of_run

    def infer(self, ask: Ask) -> Any:
        """An RKLLMInferParam."""
        structs, modes = self._abi.structs, self._abi.enums["RKLLMInferMode"]
        infer = structs["RKLLMInferParam"]()
        if _MODES[ask.mode] not in modes:
            raise BadRequest(f"The installed NPU runtime ({self._release}) cannot return {ask.mode}.")
        infer.mode = modes[_MODES[ask.mode]]
        self._set(infer, keep_history=int(ask.keep_history) or None)
        if ask.lora is not None:
            infer.lora_params = ctypes.pointer(structs["RKLLMLoraParam"](text(ask.lora, "lora")))
        if ask.save_prompt_cache is not None:
            path = text(str(ask.save_prompt_cache), "save_prompt_cache")
            infer.prompt_cache_params = ctypes.pointer(structs["RKLLMPromptCacheParam"](1, path))
        if self._release >= Release.V1_3:
            self._fill_sampling(infer, ask.sampling or Sampling())
            self._set(infer, max_new_tokens=self.max_tokens(ask) or self.param.max_context_len)
        elif ask.sampling is not None:
            raise BadRequest(
                f"The installed NPU runtime ({self._release}) takes sampling when it loads a model; "
                f"to choose it per request needs {Release.V1_3}.",
                param="sampling",
            )
        return infer

    def _fill_param(self) -> None:
        options = self._options
        # A hint, which releases before 1.2.0 do not take.
        cpus = options.enabled_cpus if self._release >= Release.V1_2_0 else None
        self._set(
            self.param,
            model_path=text(str(options.model), "model"),
            max_context_len=options.max_context_len,
            n_keep=options.n_keep,
            skip_special_token=options.skip_special_token,
            ignore_eos_token=options.ignore_eos_token,
            is_async=False,
            **_sampling(options.sampling),
        )
        # What a run without a limit gets. Nothing is longer than the context.
        limit = None if self.counts_tokens else options.sampling.max_tokens
        self._set(self.param, max_new_tokens=limit or self.param.max_context_len)
        self._set(
            self.param.extend_param,
            base_domain_id=options.base_domain_id,
            embed_flash=options.embed_flash,
            **({} if cpus is None else {"enabled_cpus_num": cpus.bit_count(), "enabled_cpus_mask": cpus}),
            n_batch=options.n_batch,
        )

    def _fill_tokens(self, filled: Any, ids: tuple[int, ...]) -> None:
        if not ids or min(ids) < 0 or max(ids) >= 2**31:
            raise BadRequest("A prompt of tokens needs at least one, each a number from 0 on.")
        if len(ids) >= (limit := self.param.max_context_len):
            raise ContextLengthExceeded(
                f"The prompt has {len(ids)} tokens, the context only {limit} with the answer."
            )
        filled.input_ids = (ctypes.c_int32 * len(ids))(*ids)
        filled.n_tokens = len(ids)

    def _fill_sampling(self, infer: Any, asked: Sampling) -> None:
        """As the model was loaded, but for what is asked: the struct takes all or nothing."""
        chosen = {**_named(self._options.sampling), **_named(asked)}
        values = _sampling(Sampling(**chosen))
        sampling = self._abi.structs["RKLLMSamplingParam"]()
        defaults = {name: getattr(self._defaults, name) for name, *_ in sampling._fields_}
        self._set(sampling, **(defaults | values))
        infer.sampling_params = ctypes.pointer(sampling)

    def _set(self, struct: Any, **values: Any) -> None:
        """Set the fields that are not None; BadRequest for one that this release has not, or not so large."""
        for name, value in values.items():
            if value is None:
                continue
            if not hasattr(struct, name):
                fields = RECORDS[type(struct).__name__].fields
                first = min(min(field.releases) for field in fields if field.name == name)
                raise BadRequest(
                    f"The installed NPU runtime ({self._release}) has no {name}; it needs {first} or later.",
                    param=name,
                )
            setattr(struct, name, value)
            if isinstance(value, int) and getattr(struct, name) != value:
                raise BadRequest(f"{value} is out of range for {name}.", param=name)


def _named(sampling: Sampling) -> dict[str, Any]:
    """What it says, without what it leaves open."""
    return {name: value for name, value in msgspec.structs.asdict(sampling).items() if value is not None}


def _sampling(sampling: Sampling) -> dict[str, Any]:
    """How to draw, by the vendor's names; BadRequest for what no release can do."""
    for name in ("min_p", "seed", "logit_bias"):
        if getattr(sampling, name) not in (None, {}):
            raise BadRequest(f"The NPU runtime cannot do {name}.", param=name)
    asked = _named(sampling)
    del asked["logit_bias"]
    asked.pop("max_tokens", None)
    if asked.get("temperature") == 0:  # top_k of 1 is greedy for certain; a division by zero is not
        asked["top_k"] = 1
        del asked["temperature"]
    return asked


def text(value: str, param: str) -> bytes:
    """As C takes it: it would silently end at a NUL."""
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"The {param} is not valid Unicode.", param=param) from error
    if b"\0" in encoded:
        raise BadRequest(f"The {param} contains a NUL character.", param=param)
    return encoded
