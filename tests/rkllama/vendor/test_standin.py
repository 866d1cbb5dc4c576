"""The same handle against the stand-in, which really runs the bundled model: answers, history, log lines."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.template import render
from exo.chat import Sampling
from exo.errors import EngineFailed, ExoError, NotReady
from rkllama.vendor.abi import Release, since, until
from rkllama.vendor.asks import Ask, Event, Finished, Floats, Options, Prompt, Token, Tokens, Waiting
from rkllama.vendor.diagnosis import explain, facts
from rkllama.vendor.library import open_library, probe
from rkllama.vendor.runtime import Runtime

VERSIONS = {Release.V1_1: "1.1.4", Release.V1_2_0: "1.2.0", Release.V1_2_1: "1.2.3", Release.V1_3: "1.3.0"}
GREEDY = Sampling(temperature=0)
SUM = "What is 145 + 278?"

Load = Callable[..., Runtime]


@pytest.fixture(params=Release, ids=str)
def release(request: pytest.FixtureRequest) -> Release:
    return Release(request.param)


@pytest.fixture
def load(release: Release, build: Path, file_for: Callable[..., Path]) -> Iterator[Load]:
    loaded: list[Runtime] = []

    def load_model(*, made_for: str = "", platform: str = "rk3588", **options: Any) -> Runtime:
        library = open_library(build / VERSIONS[release] / "librkllmrt.so")
        model = file_for(made_for or VERSIONS[release], platform)
        given = {"model": model, "max_context_len": 1024, "sampling": GREEDY, **options}
        loaded.append(Runtime(library, Options(**given)))
        return loaded[-1]

    yield load_model
    for runtime in loaded:
        runtime.destroy()


releases = {
    name: pytest.mark.parametrize("release", sorted(chosen), indirect=True, ids=str)
    for name, chosen in {
        "before 1.3": until(Release.V1_2_1),
        "since 1.2.0": since(Release.V1_2_0),
        "since 1.2.1": since(Release.V1_2_1),
        "1.3": since(Release.V1_3),
    }.items()
}


def conversation(*contents: str) -> str:
    roles = ("user", "assistant") * len(contents)
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    return render(messages, answering=True, thinking=False)


def verbatim(runtime: Runtime) -> Runtime:
    """Prompts go to the model as they are (before 1.2.0 they always do)."""
    if runtime.release >= Release.V1_2_0:
        runtime.set_chat_template("", "", "")
    return runtime


def hear(runtime: Runtime, text: str, **rest: Any) -> tuple[list[Event], Finished]:
    events: list[Event] = []
    return events, runtime.run(Ask(inputs=(Prompt(text),), **rest), events.append)


def said(events: list[Event]) -> str:
    return b"".join(event.text for event in events if isinstance(event, Token)).decode()


def ids(events: list[Event]) -> list[int]:
    return [event.id for event in events if isinstance(event, Token | Waiting)]


def test_each_release_is_recognised(release: Release, build: Path) -> None:
    opened = open_library(build / VERSIONS[release] / "librkllmrt.so")
    assert opened.release is release
    assert probe(opened.cdll) is release


def test_an_answer_is_computed(load: Load) -> None:
    events, finished = hear(verbatim(load()), conversation(SUM))
    assert "423" in said(events)
    assert finished.aborted is False
    if finished.perf is not None:
        assert finished.perf.generate_tokens in (len(ids(events)), len(ids(events)) + 1)  # the end is one too
        assert finished.perf.prefill_tokens > 10


@releases["since 1.2.1"]
def test_template_and_thinking_are_the_files(load: Load) -> None:
    """Through the template in the file, the answer is that to the text rendered here."""
    expected = ids(hear(verbatim(load()), conversation(SUM))[0])
    runtime = load()
    events: list[Event] = []
    runtime.run(Ask(inputs=(Prompt(SUM, thinking=False),)), events.append)
    assert ids(events) == expected
    events = []
    runtime.run(Ask(inputs=(Prompt(SUM, thinking=True),)), events.append)
    assert len(ids(events)) > len(expected)
    assert "423" in said(events)


def test_runs_leave_nothing_behind(load: Load) -> None:
    runtime = verbatim(load())
    first, _ = hear(runtime, conversation(SUM))
    hear(runtime, conversation("Count from 3 to 9."))
    assert ids(hear(runtime, conversation(SUM))[0]) == ids(first)


@releases["since 1.2.0"]
def test_history_is_kept_when_asked(load: Load) -> None:
    runtime = verbatim(load())
    whole, _ = hear(runtime, conversation(SUM, "423", "Count from 3 to 9."))
    hear(runtime, conversation(SUM), keep_history=True)
    later, _ = hear(runtime, "\n" + conversation("Count from 3 to 9.").split("\n", 1)[-1], keep_history=True)
    assert whole
    assert later
    if runtime.release >= Release.V1_2_1:
        (kept,) = runtime.kv_cache_size()
        assert kept > len(ids(later))
        runtime.clear_kv_cache()
        assert runtime.kv_cache_size() == (0,)


def test_an_abort_from_the_callback_and_the_run_after_it(load: Load) -> None:
    runtime = verbatim(load())
    expected, _ = hear(runtime, conversation(SUM))
    events: list[Event] = []

    def stop_at_second(event: Event) -> None:
        events.append(event)
        if len(events) == 2:
            assert runtime.abort()

    ask = Ask(inputs=(Prompt(conversation("Count from 3 to 40.")),))
    assert runtime.run(ask, stop_at_second).aborted
    assert len(events) == 2
    assert ids(hear(runtime, conversation(SUM))[0]) == ids(expected)


def test_entering_twice_never_reaches_the_library(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_ABORT_ON_REENTRY", "1")
    runtime = verbatim(load())

    def enter_again(event: Event) -> None:
        hear(runtime, "b")

    with pytest.raises(NotReady):
        runtime.run(Ask(inputs=(Prompt("a"),)), enter_again)
    assert "423" in said(hear(runtime, conversation(SUM))[0])


def test_an_exception_in_the_callback_comes_out(load: Load) -> None:
    runtime = verbatim(load())

    def fail(event: Event) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        runtime.run(Ask(inputs=(Prompt(conversation(SUM)),)), fail)
    assert "423" in said(hear(runtime, conversation(SUM))[0])


def test_max_tokens_are_exactly_that(load: Load) -> None:
    """From 1.3.0 the runtime stops by itself; before, it is told to, and what it still makes is not heard."""
    runtime = verbatim(load(sampling=Sampling(temperature=0, max_tokens=5)))
    whole = ids(hear(runtime, conversation(SUM), max_tokens=200)[0])
    assert len(whole) > 7
    for asked, limit in ((1, 1), (None, 5), (7, 7), (len(whole), len(whole))):
        events, finished = hear(runtime, conversation(SUM), max_tokens=asked)
        assert ids(events) == whole[:limit]
        assert finished.cut
        assert not finished.aborted
    events, finished = hear(runtime, conversation(SUM), max_tokens=len(whole) + 1)
    assert ids(events) == whole
    assert not finished.cut


@releases["since 1.2.1"]
def test_a_full_context_cuts_an_answer(load: Load) -> None:
    runtime = verbatim(load(max_context_len=64))
    events, finished = hear(runtime, conversation("Count from 3 to 60."))
    assert finished.cut
    assert finished.context_tokens == 64
    assert len(ids(events)) < 64
    (held,) = runtime.kv_cache_size()
    assert held == 64
    events, finished = hear(runtime, conversation("Hello"), max_tokens=20)
    assert finished.cut == (len(ids(events)) == 20)
    assert finished.context_tokens is not None
    assert finished.context_tokens < 63


@releases["1.3"]
def test_sampling_per_run(load: Load) -> None:
    runtime = verbatim(load(sampling=Sampling(temperature=2, top_k=40)))
    events, _ = hear(runtime, conversation(SUM), sampling=GREEDY)
    assert "423" in said(events)
    events, _ = hear(runtime, conversation(SUM), sampling=Sampling(temperature=0, max_tokens=2))
    assert len(ids(events)) == 2


@releases["since 1.2.0"]
def test_logits_name_the_next_token(load: Load) -> None:
    """What the logits mode gives for a prompt is what greedy generation continues it with."""
    runtime = verbatim(load())
    first = ids(hear(runtime, conversation(SUM))[0])[0]
    floats = [each for each in hear(runtime, conversation(SUM), mode="logits")[0] if isinstance(each, Floats)]
    assert floats
    assert floats[-1].rows == 1
    last = memoryview(floats[-1].values).cast("f").tolist()
    assert last.index(max(last)) == first


def test_hidden_states(load: Load) -> None:
    runtime = verbatim(load())
    floats = [each for each in hear(runtime, conversation(SUM), mode="hidden")[0] if isinstance(each, Floats)]
    assert floats
    for each in floats:
        assert each.columns == 128
        assert len(each.values) == each.rows * each.columns * 4
        assert any(memoryview(each.values).cast("f"))


def test_a_prompt_cache_is_written_and_used(load: Load, tmp_path: Path) -> None:
    runtime = verbatim(load())
    cache = tmp_path / "cache"
    first, _ = hear(runtime, conversation(SUM), save_prompt_cache=cache)
    assert cache.is_file()
    for _ in range(2):
        runtime.load_prompt_cache(cache)
        assert "423" in said(hear(runtime, conversation(SUM))[0])
    runtime.release_prompt_cache()
    assert ids(hear(runtime, conversation(SUM))[0]) == ids(first)


def test_tokens_that_the_model_does_not_have_fail_the_run(load: Load) -> None:
    runtime = load()
    with pytest.raises(EngineFailed):
        runtime.run(Ask(inputs=(Tokens((1, 999_999)),)), lambda event: None)
    assert hear(runtime, "Hello")[1] is not None


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "other platform": ({"platform": "rk3576"}, "another chip (RK3576) than this board's (RK3588)"),
    "context": ({"max_context_len": 4096}, "Set num_ctx to 2048"),
    "init": ({"fault": "bad-magic"}, "damaged"),
    "memory": ({"fault": "npu-oom"}, "out of memory"),
    "old driver": ({"fault": "old-driver"}, "kernel driver (0.9.6) is too old"),
    "no driver": ({"fault": "no-driver"}, "cannot be opened"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_runtime_says_when_it_refuses_is_explained(
    load: Load,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    release: Release,
) -> None:
    options, words = dict(REFUSALS[name][0]), REFUSALS[name][1]
    if fault := options.pop("fault", None):
        monkeypatch.setenv("STANDIN_FAULT", fault)
    with pytest.raises(EngineFailed, match="rkllm_init returned -1"):
        load(**options)
    captured = capfd.readouterr()
    log = (captured.out + captured.err).splitlines()
    error = explain(log)
    assert isinstance(error, ExoError)
    assert words in error.message
    assert facts(log).runtime == VERSIONS[release]


def test_the_log_of_a_good_load(load: Load, capfd: pytest.CaptureFixture[str], release: Release) -> None:
    load()
    captured = capfd.readouterr()
    log = (captured.out + captured.err).splitlines()
    assert explain(log) is None
    found = facts(log)
    assert (found.max_context_limit, found.npu_core_num, found.target_platform) == (2048, 3, "RK3588")
    assert found.toolkit == VERSIONS[release]
