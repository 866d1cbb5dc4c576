"""A text's vector from the runtime's last-hidden-state mode, which every release has.

The text goes to the model as it is, without template or prefix. The mean over its tokens is what llama.cpp
does by default, too. Could not be tried without the hardware: whether a runtime gives all tokens' states, as
its interface says, and what it does with a text that is too long.
"""

from collections.abc import Callable

from exo.errors import BadRequest, ContextLengthExceeded, EngineFailed
from rkllama.vendor.abi import Release
from rkllama.vendor.asks import Ask, Embed, Event, Finished, Floats, Prompt, Vector
from rkllama.vendor.runtime import Runtime


def embed(runtime: Runtime, ask: Embed, on_event: Callable[[Event], None]) -> Finished:
    """Says one `Vector`, as wide as the model's hidden states.

    Raises `BadRequest` for a text of nothing, `ContextLengthExceeded` for one that is too long, and what
    `Runtime.run` raises.
    """
    if not ask.text:
        raise BadRequest("there is no text to embed", param="input")
    if runtime.release >= Release.V1_2_0:
        # From here on the runtime leaves out what its cache holds already, and gives no states for it.
        runtime.clear_kv_cache()
    heard: list[Floats] = []

    def hear(event: Event) -> None:
        if isinstance(event, Floats):
            heard.append(event)

    try:
        finished = runtime.run(Ask(inputs=(Prompt(ask.text),), mode="hidden"), hear)
    except EngineFailed as error:
        # It does not say what it failed at, and has the only tokenizer. A token is at least one byte.
        if len(ask.text.encode()) < runtime.max_context_len:
            raise
        raise _too_long(f"of {len(ask.text)} characters is most likely longer", runtime) from error
    if finished.aborted:
        return finished
    tokens = sum(floats.rows for floats in heard)
    if not tokens:
        raise EngineFailed("the NPU runtime gave no hidden states, though it says that it has read the text")
    if tokens >= runtime.max_context_len:
        raise _too_long("may have been cut off there", runtime)
    on_event(Vector(_mean(heard), tokens))
    return finished


def _mean(heard: list[Floats]) -> tuple[float, ...]:
    import numpy as np

    rows = [np.frombuffer(each.values, np.float32).reshape(each.rows, each.columns) for each in heard]
    mean = np.concatenate(rows).mean(axis=0, dtype=np.float64)
    length = float(np.linalg.norm(mean))
    if not 0 < length < float("inf"):
        raise EngineFailed("the model's hidden states are no numbers: a numeric overflow, or a damaged file")
    return tuple((mean / length).tolist())


def _too_long(how: str, runtime: Runtime) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"the context holds {runtime.max_context_len} tokens, and the text {how}; split it", param="input"
    )
