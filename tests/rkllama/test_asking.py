"""What the runtime does by itself, what is drawn from its logits, and what is refused; without a runtime."""

from pathlib import Path

import msgspec
import pytest

from exo.chat import ChatRequest, Message, Sampling
from exo.errors import BadRequest
from exo.generation.writing import Run
from rkllama.asking import RUNTIME_DEFAULTS, Loaded, ask_for, runs_with
from rkllama.vendor.abi import Release
from rkllama.vendor.asks import Ask, Prompt, Stepwise

RUN = Run("to go on from", limit=7)


def loaded(folder: Path, *, release: Release = Release.V1_2_1, samples_per_run: bool = False) -> Loaded:
    return Loaded(
        model="m",
        release=str(release),
        samples_per_run=samples_per_run,
        sampling=runs_with(Sampling(temperature=0.5, seed=1)),
        folder=folder,
    )


def request(**sampling: object) -> ChatRequest:
    return ChatRequest(model="m", messages=(Message("user", "hi"),), sampling=Sampling(**sampling))  # type: ignore[arg-type]


def test_a_model_is_loaded_with_what_its_card_says_and_the_runtime_can() -> None:
    assert loaded(Path()).sampling == msgspec.structs.replace(RUNTIME_DEFAULTS, temperature=0.5)


def test_what_the_model_was_loaded_with_is_the_runtimes_own_affair(tmp_path: Path) -> None:
    ask = ask_for(request(temperature=0.5, top_k=40), RUN, loaded(tmp_path))
    assert ask == Ask(inputs=(Prompt("to go on from"),), sampling=None, max_tokens=7)


def test_a_release_that_samples_per_run_is_told_how(tmp_path: Path) -> None:
    ask = ask_for(request(temperature=0.0), RUN, loaded(tmp_path, release=Release.V1_3, samples_per_run=True))
    assert isinstance(ask, Ask)
    assert (ask.sampling, ask.max_tokens) == (Sampling(temperature=0.0), 7)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (request(temperature=0.0), "temperature"),
        (request(seed=3), "seed"),
        (request(logit_bias={1: 2.0}), "logit_bias"),
        (msgspec.structs.replace(request(), logprobs=2), "logprobs"),
    ],
)
def test_more_is_drawn_from_logits_where_the_tokenizer_is_there_and_refused_elsewhere(
    tmp_path: Path, asked: ChatRequest, param: str
) -> None:
    refusal = rf"{param} is more than .* \(1\.2\.1-1\.2\.3\) .*tokenizer\.json of 'm'"
    with pytest.raises(BadRequest, match=refusal) as why:
        ask_for(asked, RUN, loaded(tmp_path))
    assert why.value.param == param
    (tmp_path / "tokenizer.json").touch()
    ask = ask_for(asked, RUN, loaded(tmp_path))
    assert isinstance(ask, Stepwise)
    assert (ask.vocabulary, ask.logprobs, ask.sampling.max_tokens) == (tmp_path, asked.logprobs, 7)
    assert ask.sampling.top_k == 40
    with pytest.raises(BadRequest, match=r"install release 1\.2\.0 or later"):
        ask_for(asked, RUN, loaded(tmp_path, release=Release.V1_1))


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (ChatRequest(model="m", prompt="x", grammar="g"), "grammar"),
        (ChatRequest(model="m", prompt="x", json_schema={}), "response_format"),
        (ChatRequest(model="m", prompt="x", must_call=("f",)), "tool_choice"),
    ],
)
def test_a_form_is_called_by_what_asked_for_it(tmp_path: Path, asked: ChatRequest, param: str) -> None:
    with pytest.raises(BadRequest) as why:
        ask_for(
            asked, Run("x", form="start: X"), loaded(tmp_path, release=Release.V1_3, samples_per_run=True)
        )
    assert why.value.param == param


def test_what_a_modelfile_can_set_is_among_the_remedies(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="set TEMPERATURE in its Modelfile"):
        ask_for(request(temperature=0.0), RUN, loaded(tmp_path))
