"""What a line typed in a chat means, and how `/set` changes the settings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.cli.chat import commands, settings
from exo.cli.chat.commands import Command, is_open, read
from exo.cli.chat.settings import Settings
from exo.errors import BadRequest


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("What is 2 + 2?", "What is 2 + 2?"),
        ("  indented\n    more \n", "  indented\n    more"),
        ('"""one\ntwo"""', "one\ntwo"),
        ('"""\none\ntwo\n"""', "one\ntwo"),
        ('""""""', ""),
        ('say """', 'say """'),
        ("//etc/hosts is what?", "/etc/hosts is what?"),
        ("one\\\ntwo", "one\\\ntwo"),
        ("/help", Command("/help")),
        (" /? ", Command("/help")),
        ("/exit", Command("/bye")),
        ("/quit", Command("/bye")),
        ("/model", Command("/model")),
        ("/model  hello ", Command("/model", "hello")),
        ("/set top_k 3", Command("/set", "top_k 3")),
        ("/system Be brief.", Command("/system", "Be brief.")),
        ('/system """Be\nbrief."""', Command("/system", "Be\nbrief.")),
        ("/system\nBe brief.", Command("/system", "Be brief.")),
    ],
)
def test_a_line_is_a_message_or_a_command(typed: str, meant: Command | str) -> None:
    assert read(typed) == meant


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("/mdel", ["/mdel", "/model"]),
        ("/sto", ["/sto", "/stop"]),
        ("/etc/hosts is what?", ["/etc/hosts", "//"]),
        ("/", ["/help"]),
        ("/clear all", ["/clear"]),
        ("/save", ["/save FILE"]),
        ("/load", ["/load FILE"]),
    ],
)
def test_a_command_that_is_none_names_the_nearest(typed: str, named: list[str]) -> None:
    with pytest.raises(BadRequest) as error:
        read(typed)
    assert all(name in error.value.message for name in named), error.value.message


@given(st.text())
def test_whatever_is_typed_is_a_message_a_command_or_an_error(typed: str) -> None:
    try:
        meant = read(typed)
    except BadRequest:
        assert typed.strip().startswith("/")
        return
    assert isinstance(meant, str) or meant.name in commands.COMMANDS


@given(st.text())
def test_two_slashes_send_whatever_begins_with_one(text: str) -> None:
    assert read("//" + text) == ("/" + text).strip()


@pytest.mark.parametrize("typed", ['"""', '"""one', '"""one\ntwo', '"""one""" two', '/system """Be'])
def test_open_quotes_keep_a_message_open(typed: str) -> None:
    assert is_open(typed)


@pytest.mark.parametrize("typed", ["", "one", '"""one"""', '""""""', '"""one\ntwo"""\n', 'a """ b', "/set"])
def test_anything_else_is_sent_at_enter(typed: str) -> None:
    assert not is_open(typed)


def test_the_manual_has_every_command_and_fits_a_terminal() -> None:
    manual = commands.manual()
    assert all(f"\n{name}" in f"\n{manual}" for name in commands.COMMANDS)
    assert max(map(len, manual.splitlines())) < 80


def test_completions_are_of_what_stands_there() -> None:
    models = ["hello", "exo-demo", "auto"]
    assert commands.completions("/mod", models) == [("/model", "/mod"), ("/models", "/mod")]
    assert commands.completions("/model ", models) == [("auto", ""), ("exo-demo", ""), ("hello", "")]
    assert commands.completions("/stop he", models) == [("hello", "he")]
    assert commands.completions("/set top", models) == [("top_p", "top"), ("top_k", "top")]
    assert commands.completions("hello /mod", models) == []
    assert commands.completions("", models) == []


# Settings


@pytest.mark.parametrize(
    ("name", "value", "is_now"),
    [
        ("temperature", "0.5", 0.5),
        ("temperature", "2", 2.0),
        ("top_p", "1", 1.0),
        ("top_k", "0", 0),
        ("seed", "-7", -7),
        ("max_tokens", "1", 1),
        ("think", "on", True),
        ("think", "OFF", False),
        ("seed", "-", None),
    ],
)
def test_a_setting_takes_what_the_node_takes(name: str, value: str, is_now: object) -> None:
    now = settings.changed(Settings(seed=1, top_p=0.5), name, value)
    assert getattr(now, name) == is_now
    assert (now.top_p, type(getattr(now, name))) == (1.0 if name == "top_p" else 0.5, type(is_now))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "2.1"),
        ("temperature", "nan"),
        ("temperature", "-0.1"),
        ("temperature", "hot"),
        ("top_p", "0"),
        ("top_p", "1.01"),
        ("top_k", "1.5"),
        ("top_k", "-1"),
        ("seed", "null"),
        ("seed", str(2**63)),
        ("max_tokens", "0"),
        ("think", "maybe"),
        ("think", "1"),
    ],
)
def test_a_setting_refuses_the_rest_and_says_what_it_takes(name: str, value: str) -> None:
    with pytest.raises(BadRequest, match=f"^{name} takes .*, not '{value}'$") as error:
        settings.changed(Settings(), name, value)
    assert error.value.param == name


def test_a_setting_that_is_none_names_the_nearest() -> None:
    for ask in (
        lambda: settings.changed(Settings(), "temprature", "1"),
        lambda: settings.shown(Settings(), "temprature"),
    ):
        with pytest.raises(BadRequest, match="temperature"):
            ask()


def test_settings_are_shown_as_they_are_typed() -> None:
    given_ = Settings(temperature=0.25, think=False, top_k=3)
    shown = {name: value for name, value, _ in settings.shown(given_)}
    assert shown == {
        "temperature": "0.25", "top_p": "-", "top_k": "3", "seed": "-", "max_tokens": "-", "think": "off",
    }  # fmt: skip
    assert [row[0] for row in settings.shown(given_, "seed")] == ["seed"]
    again = Settings()
    for name, value in shown.items():
        again = settings.changed(again, name, value)
    assert again == given_
