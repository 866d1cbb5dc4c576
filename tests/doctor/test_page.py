"""What is printed: lines that can be searched for, and a page that a terminal can show."""

from exo.doctor.finding import Finding, by_urgency, gb, status, summary
from exo.doctor.page import lines

FOUND = (
    Finding("broken", "Disk", "/data: there is no room on its disk", "exo rm takes a model away."),
    Finding("ok", "Clock", "2026-01-01 00:00 UTC"),
)


def test_a_finding_is_a_line_and_its_remedy_another() -> None:
    assert list(lines(FOUND)) == [
        "BROKEN  Disk: /data: there is no room on its disk",
        "          exo rm takes a model away.",
        "ok      Clock: 2026-01-01 00:00 UTC",
        "1 broken",
    ]


def test_a_terminal_gets_lines_that_fit_and_names_of_files_in_one_piece() -> None:
    path = "/home/anna/.cache/exo/models/a-model-with-a-rather-long-name-Q4_K_M.gguf"
    found = (Finding("note", "Model", f"{path} is cut short: " + "word " * 40, "Pull it again. " * 10),)
    shown = list(lines(found, columns=80))
    assert all(len(line) <= 80 for line in shown if path not in line), shown
    assert any(path in line for line in shown)
    assert all(line.startswith(("note ", " " * 8, "Nothing")) for line in shown)


def test_colours_change_nothing_but_the_colour() -> None:
    import re

    coloured = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines(FOUND, columns=80, colour=True)]
    assert coloured == list(lines(FOUND, columns=80))
    assert any("\x1b[" in line for line in lines(FOUND, columns=80, colour=True))


def test_the_status_is_one_where_something_is_broken_only() -> None:
    assert status(FOUND) == 1
    assert status([Finding("slow", "x", "y"), Finding("note", "x", "y")]) == 0
    assert status([]) == 0


def test_the_last_line_counts() -> None:
    slow = Finding("slow", "x", "y")
    assert summary([*FOUND, slow, slow]) == "1 broken, 2 slow"
    assert summary(FOUND[1:]) == "Nothing is wrong."


def test_within_a_level_findings_stay_as_they_came() -> None:
    notes = [Finding("note", str(number), "") for number in range(5)]
    assert [each.subject for each in by_urgency([FOUND[1], *notes, FOUND[0]])] == (
        ["Disk", "0", "1", "2", "3", "4", "Clock"]
    )


def test_sizes_are_in_units_that_suit_them() -> None:
    assert [gb(size) for size in (2.5e9, 1e8, 2.5e6, 4e3)] == ["2.5 GB", "0.1 GB", "2.5 MB", "4.0 KB"]


def test_what_another_machine_calls_itself_does_not_drive_the_terminal() -> None:
    (line, _) = lines([Finding("ok", "Node \x1b[2J\x07", "a\nb\u202e")])
    assert line == "ok      Node \\x1b[2J\\x07: a b\\u202e"
