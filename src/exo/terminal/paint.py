"""Lines of the panel as what a terminal is sent, or as a picture. Pure."""

import io
from collections.abc import Sequence

from rich.color import ColorSystem
from rich.console import Console
from rich.segment import Segment
from rich.text import Text


class Painter:
    """To a terminal with or without colours. Bold and dim are left where colours are not wanted."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours
        # The environment has been read already; this one only looks up styles.
        self._console = Console(
            file=io.StringIO(),
            force_terminal=True,
            color_system="standard",
            _environ={},
            legacy_windows=False,
        )

    def ansi(self, lines: Sequence[Text]) -> list[str]:
        """Each line with its escape sequences, as it leaves the terminal in its usual style."""
        return ["".join(map(self._styled, line.render(self._console))) for line in lines]

    def _styled(self, segment: Segment) -> str:
        style = segment.style
        if style is None:
            return segment.text
        if not self._colours:
            style = style.without_color
        return style.render(segment.text, color_system=ColorSystem.STANDARD)


def svg(lines: Sequence[Text], width: int, title: str) -> str:
    """A picture of the lines in a window, as documentation shows it. It needs nothing from elsewhere: the
    font is whichever of that kind the reader has."""
    console = Console(
        file=io.StringIO(), record=True, width=width, height=len(lines), color_system="standard", _environ={}
    )
    for line in lines:
        console.print(line, no_wrap=True, crop=True)
    return console.export_svg(title=title, code_format=_SVG, unique_id="panel")


# Rich's own has the font from the network.
_SVG = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
