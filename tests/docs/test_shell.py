import pytest

from .shell import Command, commands


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("exo ps  # what\nexo rm it", [("exo", "ps"), ("exo", "rm", "it")]),
        ("a | b --c 'd e' && sudo f", [("a",), ("b", "--c", "d e"), ("f",)]),
        ("a \\\n  --b", [("a", "--b")]),
        ("a > file 2>&1 < other b", [("a", "b")]),
        ('curl -d "{\\"a\\": 1}" http://x/#y', [("curl", "-d", '{\\"a\\": 1}', "http://x/#y")]),
        ("a <<'END' > f\nexo nonsense\nEND\nb", [("a",), ("b",)]),
        ('a "$(b c)" $(d (e) f)', [("a", "$(b c)", "$(d (e) f)")]),
        ("(umask 077; exo ps)", [("umask", "077"), ("exo", "ps")]),
    ],
)
def test_commands_are_told_apart(text: str, found: list[tuple[str, ...]]) -> None:
    assert [each.words for each in commands(text)] == found


def test_variables_belong_to_their_command() -> None:
    assert list(commands("EXO_PORT=1 B=2 exo")) == [Command(("exo",), ("EXO_PORT", "B"))]


def test_a_program_goes_by_its_name_wherever_it_is() -> None:
    [command] = commands("sudo /opt/exo/bin/exo ps")
    assert command.program == "exo"


def test_what_is_not_understood_is_not_passed_over() -> None:
    with pytest.raises(AssertionError, match="not understood"):
        list(commands("exo 'open"))
