"""Others' words for a terminal: a model's text, a server's messages, names of files and nodes."""

_SHOWN = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def harmless(text: str) -> str:
    """With control characters shown, as `\\x1b`, but line breaks and tabs: they drive nothing, be it the
    cursor, the title, the clipboard or the keyboard of whoever reads."""
    return text.replace("\r\n", "\n").translate(_SHOWN)
