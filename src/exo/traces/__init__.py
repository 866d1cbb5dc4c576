"""What a request does, as spans of a trace that goes over all machines it crosses. Off unless it is wanted.

`spans` is all that the rest of the program knows of it, `context` the headers that carry a trace from one
server to the next, `phases` what is seen in an answer's deltas. `otlp` is the one file that knows
OpenTelemetry, and is imported where traces are recorded.

The names of attributes are those of OpenTelemetry's semantic conventions, for HTTP (stable) and for
generative AI (in development, as of release 1.44); what these have no name for begins with "exo.". Text of
prompts and answers is in none of them, and neither are messages of errors, which may quote it.
"""

from exo.traces.spans import OFF, Span, Traces, Value, asked, asking, usage

__all__ = ["OFF", "Span", "Traces", "Value", "asked", "asking", "usage"]
