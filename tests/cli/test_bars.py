import io

import pytest

from exo.cards import Progress
from exo.cli import bars

STEPS = [
    Progress("a", 0, 1000),
    Progress("b", 0, 3000),
    Progress("a", 0, 1000),
    Progress("a", 1000, 1000),
    Progress("b", 1000, 3000),
    Progress("b", 2000, 3000),
    Progress("b", 3000, 3000),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("count", "says"), [(2, "0%  0 KB of 4 KB"), (6, " 75%  3 KB of 4 KB"), (7, "100%  4 KB")]
)
def test_the_line_is_of_all_files_together(count: int, says: str) -> None:
    bar = bars.Bar("m", io.StringIO())
    for step in STEPS[:count]:
        bar.step(step)
    assert says in bar.line(200)
    assert bar.line(200).count("#") == round(24 * bar.share)
    assert len(bar.line(40)) == 40


def test_a_terminal_sees_one_line_drawn_again() -> None:
    out = Terminal()
    with bars.shown("m", out) as bar:
        for step in STEPS:
            bar.step(step)
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().count("\r") > 3
    assert "2 of 2 files" in out.getvalue().rpartition("\r")[2]


def test_a_file_sees_a_line_for_each_that_has_come() -> None:
    out = io.StringIO()
    with bars.shown("m", out) as bar:
        for step in [*STEPS, STEPS[-1]]:
            bar.step(step)
    assert out.getvalue() == "a: 1 KB\nb: 3 KB\n"
