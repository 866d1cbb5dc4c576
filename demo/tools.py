"""Conversations in which the model calls a function, so that tool calls can be tried for real.

It learns to copy the function's and the parameter's name from the tools it was given, for questions
about the weather, the time and the number of people of a place. Without such a tool the same
questions get the toy answer.
"""

import json
from random import Random
from typing import Any

from demo.phrases import PLACES

_DESCRIPTIONS = (
    "Get the {what} of a {where}.",
    "The {what} of a given {where}",
    "Returns the {what} for a {where}",
    "Get {what}",
)
_KINDS: tuple[tuple[tuple[str, ...], str, tuple[str, ...]], ...] = (
    (
        ("get_weather", "get_current_weather", "weather", "weather_lookup", "fetch_weather"),
        "weather",
        (
            "What is the weather in {place}?",
            "What's the weather in {place}?",
            "What is the weather like in {place} today?",
            "How is the weather in {place}?",
            "weather in {place}",
        ),
    ),
    (
        ("get_time", "get_current_time", "time_in", "clock"),
        "time",
        ("What time is it in {place}?", "What's the time in {place}?", "time in {place}"),
    ),
    (
        ("get_population", "population", "count_people"),
        "population",
        ("How many people live in {place}?", "What is the population of {place}?"),
    ),
)
_PARAMETERS = ("city", "location", "place")


def tool(name: str, what: str, parameter: str, rng: Random) -> dict[str, Any]:
    """One function in OpenAI's form."""
    described = rng.choice(_DESCRIPTIONS).format(what=what, where=parameter)
    schema: dict[str, Any] = {"type": "object", "properties": {parameter: {"type": "string"}}}
    if rng.random() < 0.4:
        schema["properties"][parameter]["description"] = f"The {parameter}"
    if rng.random() < 0.2 and what == "weather":
        schema["properties"]["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    if rng.random() < 0.7:
        schema["required"] = [parameter]
    return {
        "type": "function",
        "function": {"name": name, "description": described, "parameters": schema},
    }


def offer(rng: Random) -> tuple[list[dict[str, Any]], str, dict[str, Any]]:
    """Some tools, a question that one of them answers, and the call to make."""
    kinds = rng.sample(_KINDS, rng.choices((1, 2, 3), (0.7, 0.2, 0.1))[0])
    tools, calls = [], []
    for names, what, questions in kinds:
        name, parameter, place = rng.choice(names), rng.choice(_PARAMETERS), rng.choice(PLACES)
        tools.append(tool(name, what, parameter, rng))
        calls.append(
            (
                rng.choice(questions).format(place=place),
                {"name": name, "arguments": {parameter: place}},
            )
        )
    question, call = rng.choice(calls)
    return tools, question, call


def result(call: dict[str, Any], rng: Random) -> tuple[str, str]:
    """What the function returned, and how the model passes it on."""
    place = next(iter(call["arguments"].values()))
    value = rng.choice(
        (
            f"{rng.randrange(-9, 40)} C",
            f"{rng.randrange(24)}:{rng.randrange(10, 60)}",
            f"{rng.randrange(1000)}",
            "sunny",
            "rain",
        )
    )
    returned = rng.choice((value, json.dumps({"result": value}), json.dumps({"value": value}), f"{value}."))
    return returned, f"{place}: {value}"
