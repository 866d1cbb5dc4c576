"""The vendor's C interface, declared once for all its releases.

`RECORDS`, `ENUMS`, `CALLBACKS` and `FUNCTIONS` say what the header `rkllm.h` says; what differs between
releases carries the releases it belongs to, everything else is in all of them. `declarations(release)`
makes ctypes of them. Nothing here loads a library.

Layouts are checked against tables compiled from the vendor's headers (tests/rkllama/abi). Those of x86-64 and
aarch64 agree; 32-bit ARM, which the vendor also builds for, is not supported.
"""

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any, Literal, TypeAlias

CType: TypeAlias = Any
"""A ctypes type. They have no useful common type of their own."""


class Release(IntEnum):
    """An interface the vendor has published: later ones compare greater."""

    V1_1 = 110
    V1_2_0 = 120
    V1_2_1 = 121
    V1_3 = 130

    @classmethod
    def of(cls, version: str) -> "Release":
        """The interface of the runtime's version "1.2.3"; ValueError if it is none of those known."""
        for release, versions in _VERSIONS.items():
            if version in versions:
                return release
        raise ValueError(f"no interface is known for version {version!r} of the runtime")

    def __str__(self) -> str:
        versions = _VERSIONS[self]
        return versions[0] if len(versions) == 1 else f"{versions[0]}-{versions[-1]}"


V1_1, V1_2_0, V1_2_1, V1_3 = Release
_VERSIONS: Mapping[Release, tuple[str, ...]] = {
    V1_1: ("1.1.0", "1.1.1", "1.1.2", "1.1.3", "1.1.4"),
    V1_2_0: ("1.2.0",),
    V1_2_1: ("1.2.1", "1.2.2", "1.2.3"),
    V1_3: ("1.3.0",),
}

Releases: TypeAlias = frozenset[Release]
ALL: Releases = frozenset(Release)


def since(first: Release) -> Releases:
    return frozenset(release for release in Release if release >= first)


def until(last: Release) -> Releases:
    return frozenset(release for release in Release if release <= last)


def only(release: Release) -> Releases:
    return frozenset({release})


@dataclass(frozen=True)
class Field:
    """A member of a record; one without a name is an anonymous union."""

    ctype: str
    name: str
    releases: Releases = ALL


@dataclass(frozen=True)
class Record:
    """A struct or union. One named "Outer.inner" is written inside of Outer and has no name in C."""

    fields: tuple[Field, ...]
    releases: Releases = ALL
    kind: Literal["struct", "union"] = "struct"

    def members(self, release: Release) -> Iterator[Field]:
        return (field for field in self.fields if release in field.releases)


@dataclass(frozen=True)
class Function:
    """A function, or a pointer to one."""

    returns: str
    name: str
    params: tuple[str, ...]
    releases: Releases = ALL


@dataclass(frozen=True)
class Constant:
    name: str
    value: int
    releases: Releases = ALL


_SAMPLING = (
    Field("float", "top_p"),
    Field("float", "temperature"),
    Field("float", "repeat_penalty"),
    Field("float", "frequency_penalty"),
    Field("float", "presence_penalty"),
    Field("int32_t", "mirostat"),
    Field("float", "mirostat_tau"),
    Field("float", "mirostat_eta"),
)

# A record stands below those it contains.
RECORDS: Mapping[str, Record] = {
    "RKLLMExtendParam": Record(
        (
            Field("int32_t", "base_domain_id"),
            Field("int8_t", "embed_flash", since(V1_2_0)),
            Field("int8_t", "enabled_cpus_num", since(V1_2_0)),
            Field("uint32_t", "enabled_cpus_mask", since(V1_2_0)),
            Field("uint8_t", "n_batch", since(V1_2_1)),
            Field("int8_t", "use_cross_attn", since(V1_2_1)),
            Field("uint8_t[112]", "reserved", only(V1_1)),
            Field("uint8_t[106]", "reserved", only(V1_2_0)),
            Field("uint8_t[104]", "reserved", since(V1_2_1)),
        )
    ),
    "RKLLMParam": Record(
        (
            Field("const char*", "model_path"),
            Field("int32_t", "max_context_len"),
            Field("int32_t", "max_new_tokens"),
            Field("int32_t", "top_k"),
            Field("int32_t", "n_keep", since(V1_2_0)),
            *_SAMPLING,
            Field("bool", "skip_special_token"),
            Field("bool", "ignore_eos_token", since(V1_3)),
            Field("bool", "is_async"),
            Field("const char*", "img_start", until(V1_2_1)),
            Field("const char*", "img_end", until(V1_2_1)),
            Field("const char*", "img_content", until(V1_2_1)),
            Field("RKLLMExtendParam", "extend_param"),
        )
    ),
    "RKLLMLoraAdapter": Record(
        (
            Field("const char*", "lora_adapter_path"),
            Field("const char*", "lora_adapter_name"),
            Field("float", "scale"),
        )
    ),
    "RKLLMEmbedInput": Record((Field("float*", "embed"), Field("size_t", "n_tokens"))),
    "RKLLMTokenInput": Record((Field("int32_t*", "input_ids"), Field("size_t", "n_tokens"))),
    "RKLLMMultiModalInput.image": Record(
        (
            Field("float*", "image_embed"),
            Field("size_t", "n_image_tokens"),
            Field("size_t", "n_image"),
            Field("const char*", "image_start"),
            Field("const char*", "image_end"),
            Field("const char*", "image_content"),
            Field("size_t", "image_width"),
            Field("size_t", "image_height"),
        ),
        since(V1_3),
    ),
    "RKLLMMultiModalInput.video": Record(
        (
            Field("float*", "video_embed"),
            Field("size_t", "n_frame_tokens"),
            Field("size_t", "n_frame_per_video"),
            Field("size_t", "n_video"),
            Field("const char*", "video_start"),
            Field("const char*", "video_end"),
            Field("const char*", "video_content"),
            Field("size_t", "frame_width"),
            Field("size_t", "frame_height"),
        ),
        since(V1_3),
    ),
    # Called RKLLMMultiModelInput up to 1.2.1.
    "RKLLMMultiModalInput": Record(
        (
            Field("char*", "prompt"),
            Field("float*", "image_embed", until(V1_2_1)),
            Field("size_t", "n_image_tokens", until(V1_2_1)),
            Field("size_t", "n_image", only(V1_2_1)),
            Field("size_t", "image_width", only(V1_2_1)),
            Field("size_t", "image_height", only(V1_2_1)),
            Field("RKLLMMultiModalInput.image", "image", since(V1_3)),
            Field("RKLLMMultiModalInput.video", "video", since(V1_3)),
        )
    ),
    "RKLLMInput.value": Record(
        (
            Field("const char*", "prompt_input"),
            Field("RKLLMEmbedInput", "embed_input"),
            Field("RKLLMTokenInput", "token_input"),
            Field("RKLLMMultiModalInput", "multimodal_input"),
        ),
        kind="union",
    ),
    "RKLLMInput": Record(
        (
            Field("const char*", "role", since(V1_2_1)),
            Field("bool", "enable_thinking", since(V1_2_1)),
            Field("RKLLMInputType", "input_type"),
            Field("RKLLMInput.value", ""),
        )
    ),
    "RKLLMLoraParam": Record((Field("const char*", "lora_adapter_name"),)),
    "RKLLMPromptCacheParam": Record(
        (Field("int", "save_prompt_cache"), Field("const char*", "prompt_cache_path"))
    ),
    "RKLLMCrossAttnParam": Record(
        (
            Field("float*", "encoder_k_cache"),
            Field("float*", "encoder_v_cache"),
            Field("float*", "encoder_mask"),
            Field("int32_t*", "encoder_pos"),
            Field("int", "num_tokens"),
        ),
        since(V1_2_1),
    ),
    "RKLLMSamplingParam": Record((Field("int32_t", "top_k"), *_SAMPLING), since(V1_3)),
    "RKLLMInferParam": Record(
        (
            Field("RKLLMInferMode", "mode"),
            Field("RKLLMLoraParam*", "lora_params"),
            Field("RKLLMPromptCacheParam*", "prompt_cache_params"),
            Field("RKLLMSamplingParam*", "sampling_params", since(V1_3)),
            Field("int", "keep_history", since(V1_2_0)),
            Field("int32_t", "max_new_tokens", since(V1_3)),
        )
    ),
    "RKLLMResultLastHiddenLayer": Record(
        (Field("const float*", "hidden_states"), Field("int", "embd_size"), Field("int", "num_tokens"))
    ),
    "RKLLMResultLogits": Record(
        (Field("const float*", "logits"), Field("int", "vocab_size"), Field("int", "num_tokens")),
        since(V1_2_0),
    ),
    "RKLLMPerfStat": Record(
        (
            Field("float", "prefill_time_ms"),
            Field("int", "prefill_tokens"),
            Field("float", "generate_time_ms"),
            Field("int", "generate_tokens"),
            Field("float", "memory_usage_mb"),
        ),
        since(V1_2_1),
    ),
    "RKLLMResult": Record(
        (
            Field("const char*", "text"),
            Field("int32_t", "token_id"),
            Field("RKLLMResultLastHiddenLayer", "last_hidden_layer"),
            Field("RKLLMResultLogits", "logits", since(V1_2_0)),
            Field("RKLLMPerfStat", "perf", since(V1_2_1)),
        )
    ),
    "RKLLMCallback": Record(
        (
            Field("LLMResultCallback", "result_callback"),
            Field("void*", "result_userdata"),
            Field("LLMTokenizerCallback", "tokenizer_callback"),
            Field("void*", "tokenizer_userdata"),
            Field("LLMGetEmbedCallback", "embed_callback"),
            Field("void*", "embed_userdata"),
        ),
        since(V1_3),
    ),
}

ENUMS: Mapping[str, tuple[Constant, ...]] = {
    "LLMCallState": (
        Constant("RKLLM_RUN_NORMAL", 0),
        Constant("RKLLM_RUN_WAITING", 1),
        Constant("RKLLM_RUN_FINISH", 2),
        Constant("RKLLM_RUN_ERROR", 3),
        Constant("RKLLM_RUN_GET_LAST_HIDDEN_LAYER", 4, only(V1_1)),
    ),
    "RKLLMInputType": (
        Constant("RKLLM_INPUT_PROMPT", 0),
        Constant("RKLLM_INPUT_TOKEN", 1),
        Constant("RKLLM_INPUT_EMBED", 2),
        Constant("RKLLM_INPUT_MULTIMODAL", 3),
    ),
    "RKLLMInferMode": (
        Constant("RKLLM_INFER_GENERATE", 0),
        Constant("RKLLM_INFER_GET_LAST_HIDDEN_LAYER", 1),
        Constant("RKLLM_INFER_GET_LOGITS", 2, since(V1_2_0)),
    ),
}

_RESULT = ("RKLLMResult*", "void*", "LLMCallState")
CALLBACKS: tuple[Function, ...] = (
    Function("void", "LLMResultCallback", _RESULT, until(V1_2_0)),
    # 0 goes on, 1 pauses, 2 (1.3.0) releases a buffer.
    Function("int", "LLMResultCallback", _RESULT, since(V1_2_1)),
    Function(
        "int", "LLMTokenizerCallback", ("void*", "const char*", "int32_t", "int32_t*", "int32_t"), since(V1_3)
    ),
    Function(
        "int", "LLMGetEmbedCallback", ("void*", "int32_t*", "uint64_t", "void*", "uint64_t"), since(V1_3)
    ),
)

_RUN = ("LLMHandle", "RKLLMInput*", "RKLLMInferParam*", "void*")
_TEXTS = ("LLMHandle", "const char*", "const char*", "const char*")
FUNCTIONS: tuple[Function, ...] = (
    Function("RKLLMParam", "rkllm_createDefaultParam", ()),
    Function("int", "rkllm_init", ("LLMHandle*", "RKLLMParam*", "LLMResultCallback"), until(V1_2_1)),
    Function("int", "rkllm_init", ("LLMHandle*", "RKLLMParam*", "RKLLMCallback*"), since(V1_3)),
    Function("int", "rkllm_load_lora", ("LLMHandle", "RKLLMLoraAdapter*")),
    Function("int", "rkllm_load_prompt_cache", ("LLMHandle", "const char*")),
    Function("int", "rkllm_release_prompt_cache", ("LLMHandle",)),
    Function("int", "rkllm_destroy", ("LLMHandle",)),
    Function("int", "rkllm_run", _RUN),
    Function("int", "rkllm_run_async", _RUN),
    Function("int", "rkllm_abort", ("LLMHandle",)),
    # Up to 1.2.3 documented as 0 for "running", from 1.3.0 as 1: of no use to anyone.
    Function("int", "rkllm_is_running", ("LLMHandle",)),
    Function("int", "rkllm_clear_kv_cache", ("LLMHandle", "int"), only(V1_2_0)),
    Function("int", "rkllm_clear_kv_cache", ("LLMHandle", "int", "int*", "int*"), since(V1_2_1)),
    Function("int", "rkllm_get_kv_cache_size", ("LLMHandle", "int*"), since(V1_2_1)),
    Function("int", "rkllm_set_chat_template", _TEXTS, since(V1_2_0)),
    Function("int", "rkllm_set_function_tools", _TEXTS, since(V1_2_1)),
    Function("int", "rkllm_set_cross_attn_params", ("LLMHandle", "RKLLMCrossAttnParam*"), since(V1_2_1)),
)

_BASIC: Mapping[str, CType] = {
    "void": None,
    "bool": ctypes.c_bool,
    "int": ctypes.c_int,
    "int8_t": ctypes.c_int8,
    "int32_t": ctypes.c_int32,
    "uint8_t": ctypes.c_uint8,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "float": ctypes.c_float,
    "char*": ctypes.c_char_p,
    "void*": ctypes.c_void_p,
    "LLMHandle": ctypes.c_void_p,
}


@dataclass(frozen=True)
class Prototype:
    returns: CType
    params: tuple[CType, ...]


@dataclass(frozen=True)
class Abi:
    """One release's interface as ctypes, each thing under the name it has in C."""

    release: Release
    structs: Mapping[str, CType]
    enums: Mapping[str, Mapping[str, int]]
    callbacks: Mapping[str, CType]
    functions: Mapping[str, Prototype]

    def bind(self, library: ctypes.CDLL) -> None:
        """Give every function of `library` its types, so that ctypes checks and converts what is passed."""
        for name, prototype in self.functions.items():
            function = getattr(library, name)
            function.restype = prototype.returns
            function.argtypes = prototype.params


@cache
def declarations(release: Release) -> Abi:
    types: dict[str, CType] = {**_BASIC, **dict.fromkeys(ENUMS, ctypes.c_int)}

    def resolve(ctype: str) -> CType:
        ctype = ctype.removeprefix("const ")
        if ctype in types:
            return types[ctype]
        if ctype.endswith("*"):
            return ctypes.POINTER(resolve(ctype[:-1]))
        item, _, length = ctype.removesuffix("]").partition("[")
        return resolve(item) * int(length)

    def define(name: str, record: Record) -> CType:
        fields = list(record.members(release))
        body = {
            "_fields_": [(field.name or "_value", resolve(field.ctype)) for field in fields],
            "_anonymous_": ["_value" for field in fields if not field.name],
        }
        return type(name, (ctypes.Union if record.kind == "union" else ctypes.Structure,), body)

    structs: dict[str, CType] = {}
    callbacks: dict[str, CType] = {}
    for name, record in RECORDS.items():
        if release not in record.releases:
            continue
        structs[name] = types[name] = define(name, record)
        if name == "RKLLMResult":  # what callbacks need, and what needs callbacks comes below it
            for each in CALLBACKS:
                if release in each.releases:
                    made = ctypes.CFUNCTYPE(resolve(each.returns), *map(resolve, each.params))
                    callbacks[each.name] = types[each.name] = made
    return Abi(
        release=release,
        structs=structs,
        enums={
            name: {constant.name: constant.value for constant in constants if release in constant.releases}
            for name, constants in ENUMS.items()
        },
        callbacks=callbacks,
        functions={
            each.name: Prototype(resolve(each.returns), tuple(map(resolve, each.params)))
            for each in FUNCTIONS
            if release in each.releases
        },
    )
