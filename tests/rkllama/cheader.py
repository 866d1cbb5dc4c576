"""Our declarations as a C header: what a compiler makes of them is the proof that they say what C says."""

import re

from rkllama.vendor.abi import CALLBACKS, ENUMS, FUNCTIONS, RECORDS, Field, Function, Record, Release


def header(release: Release) -> str:
    """`rkllm.h` of `release`, as abi.py has it."""
    parts = ["#pragma once", "#include <stdbool.h>", "#include <stddef.h>", "#include <stdint.h>"]
    parts.append("typedef void* LLMHandle;")
    for name, constants in ENUMS.items():
        members = ", ".join(f"{each.name} = {each.value}" for each in constants if release in each.releases)
        parts.append(f"typedef enum {{ {members} }} {name};")
    for name, record in RECORDS.items():
        if release in record.releases and "." not in name:
            parts.append(f"typedef {_record(record, release)} {name};")
        if name == "RKLLMResult":
            parts += [
                f"typedef {each.returns} (*{each.name})({_params(each)});"
                for each in CALLBACKS
                if release in each.releases
            ]
    parts += [f"{f.returns} {f.name}({_params(f)});" for f in FUNCTIONS if release in f.releases]
    return "\n".join(parts) + "\n"


def _record(record: Record, release: Release) -> str:
    members = " ".join(_member(field, release) for field in record.members(release))
    return f"{record.kind} {{ {members} }}"


def _member(field: Field, release: Release) -> str:
    if "." in field.ctype:
        return f"{_record(RECORDS[field.ctype], release)} {field.name};"
    if array := re.fullmatch(r"(\w+)\[(\d+)\]", field.ctype):
        return f"{array[1]} {field.name}[{array[2]}];"
    return f"{field.ctype} {field.name};"


def _params(function: Function) -> str:
    return ", ".join(function.params) or "void"
