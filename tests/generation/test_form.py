"""Forms of answers, token by token; through a whole engine, see `tests/shards/test_model.py`."""

import pytest

from exo.errors import BadRequest, EngineFailed
from exo.generation.form import Form
from exo.generation.vocabulary import Vocabulary
from exo.store.catalogue import BUNDLED


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.read(BUNDLED / "exo-demo")


def first_bytes(form: Form, vocabulary: Vocabulary) -> set[bytes]:
    """What may come next, without what ends an answer."""
    allowed = set(map(int, form.allowed().nonzero()[0])) - vocabulary.ends
    return {vocabulary.spelled(id) for id in allowed}


@pytest.mark.parametrize("form", ['root ::= "ab" | "cd"', '%llguidance {}\nstart: "ab" | "cd"\n'])
def test_only_what_leads_to_the_form_is_allowed(vocabulary: Vocabulary, form: str) -> None:
    kept = Form(form, vocabulary)
    allowed = first_bytes(kept, vocabulary)
    assert {b"a", b"c"} <= allowed <= {b"a", b"ab", b"c", b"cd"}
    (a,), (b,) = vocabulary.encode("a"), vocabulary.encode("b")
    assert not kept.completed_by(a)
    assert first_bytes(kept, vocabulary) == {b"b"}
    assert kept.completed_by(b)


def test_an_answer_may_end_where_it_is_complete(vocabulary: Vocabulary) -> None:
    kept = Form('root ::= "a" "b"?', vocabulary)
    assert not kept.allowed()[sorted(vocabulary.ends)].any()
    (a,) = vocabulary.encode("a")
    assert not kept.completed_by(a)
    assert kept.allowed()[sorted(vocabulary.ends)].any()


def test_a_token_that_is_not_allowed_is_an_error(vocabulary: Vocabulary) -> None:
    kept = Form('root ::= "ab"', vocabulary)
    (c,) = vocabulary.encode("c")
    with pytest.raises(EngineFailed, match="could not be followed any further"):
        kept.completed_by(c)


def test_a_form_that_is_too_large_is_refused_where_that_shows(vocabulary: Vocabulary) -> None:
    kept = Form('root ::= "a"{1000000}', vocabulary)
    (a,) = vocabulary.encode("a")
    with pytest.raises(BadRequest, match="too large to be followed"):
        kept.completed_by(a)


@pytest.mark.parametrize(
    "form",
    [
        "root ::= (",
        "hello",
        "",
        "%llguidance {}\nstart: no\n",
        "root ::= root",
        '%llguidance {}\nstart: %json {"$ref": "#"}\n',
    ],
)
def test_what_is_no_form_is_refused(vocabulary: Vocabulary, form: str) -> None:
    with pytest.raises(BadRequest, match="the grammar") as refused:
        Form(form, vocabulary)
    assert refused.value.param == "grammar"
