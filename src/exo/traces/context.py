"""W3C Trace Context: the headers that say which trace a request belongs to (https://www.w3.org/TR/trace-context/).

They are passed on whether this machine records or not, so that a trace is whole for those that do.
"""

import re
from collections.abc import Mapping, Sequence

from exo.chat import Trace

PARENT_HEADER = "traceparent"
STATE_HEADER = "tracestate"

# Version, trace, span, flags; a later version may say more behind them.
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]{1,200})?")
# As much as has to be passed on by those that pass any on.
_MOST_STATE = 512
_STATE = re.compile(r"[\x20-\x7e\t]*")


def read(parents: Sequence[str], states: Sequence[str] = ()) -> Trace:
    """Of the values of the two headers. What is no proper `traceparent` is none, as the standard wants it."""
    if len(parents) != 1 or not (found := _PARENT.fullmatch(parents[0].strip())):
        return Trace()
    version, trace, span, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace.strip("0") or not span.strip("0"):
        return Trace()
    state = ",".join(states)
    if len(state) > _MOST_STATE or not _STATE.fullmatch(state):
        state = ""
    return Trace(f"00-{trace}-{span}-{flags}", state)


def headers(trace: Trace) -> Mapping[str, str]:
    """For a request to the next server."""
    if not trace.parent:
        return {}
    return {PARENT_HEADER: trace.parent, **({STATE_HEADER: trace.state} if trace.state else {})}
