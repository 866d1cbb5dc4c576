"""The ways in which a conversion fails. A message names the culprit and the remedy."""

from __future__ import annotations


class ConvertError(Exception):
    """A failure with a stable code. Raise one of its kinds."""

    code = "failed"

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.message = message
        if code:
            self.code = code


class BadInput(ConvertError):
    """A file or a value that was given cannot be used."""

    code = "bad_input"


class Refused(ConvertError):
    """What was asked for cannot be done, by the table; known before anything was begun."""

    code = "refused"


class NotReady(ConvertError):
    """This machine cannot do it now: no toolkit, no network, no room, or another run is at it."""

    code = "not_ready"


class ToolkitFailed(ConvertError):
    """The toolkit returned an error, raised, or its process died. `code` is one of `log.PROBLEMS`' or
    "toolkit_failed"."""

    code = "toolkit_failed"


class CopyFailed(ConvertError):
    """The board could not be reached, or did not take the files."""

    code = "copy_failed"
