"""What an answer spends its time on, as its deltas show it."""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from exo.chat import ChatRequest, Delta, Finished, Trace
from exo.traces.spans import Traces, Value, failure, usage


def phases(
    traces: Traces, request: ChatRequest, deltas: AsyncGenerator[Delta, None]
) -> AsyncGenerator[Delta, None]:
    """The deltas as they are. A span "prefill" goes up to the first of them, and "decode" up to the last,
    with the engine's own figures where it has any. The generator that was given is closed with this one."""
    return _watched(traces, request.trace, deltas) if traces.recording else deltas


async def _watched(
    traces: Traces, trace: Trace, deltas: AsyncGenerator[Delta, None]
) -> AsyncGenerator[Delta, None]:
    began, first, error = time.time_ns(), 0, ""
    end: Finished | None = None
    try:
        async with aclosing(deltas):
            async for delta in deltas:
                first = first or time.time_ns()
                if isinstance(delta, Finished):
                    end = delta
                yield delta
    except BaseException as raised:
        # Nobody has to wait for more than the last delta.
        error = "" if end else failure(raised)
        raise
    finally:
        ended = time.time_ns()
        # The spans are made when all is known, as what has ended cannot be told any more.
        prefill = traces.begin("prefill", "internal", trace, _read(end), began=began)
        prefill.end("" if first else error, at=first or ended)
        if first:
            decode = traces.begin("decode", "internal", trace, _written(end), began=first)
            decode.end(error, at=ended)


def _read(end: Finished | None) -> Mapping[str, Value]:
    if end is None:
        return {}
    known = {"gen_ai.usage.input_tokens": end.usage.prompt_tokens, "exo.prefill.seconds": end.timings.prefill}
    if end.usage.cached_tokens:
        known["gen_ai.usage.cache_read.input_tokens"] = end.usage.cached_tokens
    return {name: value for name, value in known.items() if value}


def _written(end: Finished | None) -> Mapping[str, Value]:
    if end is None:
        return {}
    known = {name: value for name, value in usage(end.usage).items() if "output" in name}
    return known | ({"exo.decode.seconds": end.timings.decode} if end.timings.decode else {})
