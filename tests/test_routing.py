import pytest

from exo.errors import ModelNotFound
from exo.nodes import Cluster, Device, Node
from exo.routing import choose
from tests.doubles import card


def cluster(*models: str) -> Cluster:
    return Cluster(
        me=Node(
            id="me",
            url="http://me",
            version="0",
            device=Device(name="d", cores=1, memory=1),
            cards=tuple(card(model) for model in models),
            loaded=(),
            waiting=0,
        )
    )


def test_a_model_here_is_answered_here_and_says_why() -> None:
    route = choose("qwen", cluster("llama", "qwen"))
    assert (route.node.id, route.card.id) == ("me", "qwen")
    assert route.why == ("qwen is on this node",)


@pytest.mark.parametrize(
    ("asked", "models", "words"),
    [
        ("qwen2.5-1.5b", ("qwen2.5-1.5b-instruct", "llama"), "did you mean qwen2.5-1.5b-instruct"),
        ("zzz", ("llama", "qwen"), "there is llama, qwen"),
        ("QWEN", ("qwen",), "there is qwen"),
        ("qwen", (), "put a .gguf file"),
    ],
)
def test_an_unknown_model_is_an_error_that_helps(asked: str, models: tuple[str, ...], words: str) -> None:
    with pytest.raises(ModelNotFound, match=words) as missing:
        choose(asked, cluster(*models))
    assert missing.value.param == "model"
