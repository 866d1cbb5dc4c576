"""Figures for people, and strangers' text made harmless."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.terminal.words import harmless, rate, short, size, span

from .samples import HOSTILE


@given(st.text())
def test_no_text_drives_a_terminal(text: str) -> None:
    shown = harmless(text)
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert not set(shown) & set("\x1b\x9b\r\n\t\x7f")
    shown.encode()


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_text_that_does_no_harm_stays_as_it_is(text: str) -> None:
    assert harmless(text, longest=1000) == text


def test_what_is_left_of_a_hostile_name_is_its_letters() -> None:
    assert harmless(HOSTILE) == "[31mred]0;title[bold]not bold[/bold]  gnp.exe2J"


def test_a_name_without_end_is_cut() -> None:
    assert len(harmless("x" * 10**6)) == 400
    assert len(harmless("ä" * 10**6)) == 400


@pytest.mark.parametrize(
    ("said", "is_said"),
    [
        (size(999), "1 KB"),
        (size(5_000_000), "5.0 MB"),
        (size(1_900_000_000), "1.9 GB"),
        (size(3.2e12), "3.2 TB"),
        (span(0), "0 s"),
        (span(-1), "0 s"),
        (span(119), "119 s"),
        (span(300), "5 min"),
        (span(3 * 3600), "3 h"),
        (span(5 * 86400), "5 d"),
        (short(0.0852), "85 ms"),
        (short(1.239), "1.24 s"),
        (short(188.2), "188 s"),
        (rate(14.93), "14.9"),
        (rate(3439.2), "3439"),
    ],
)
def test_figures_are_short(said: str, is_said: str) -> None:
    assert said == is_said
