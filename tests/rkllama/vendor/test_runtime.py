"""One handle of the runtime, for every release, against scripted.c, which says its prompt again."""

import ctypes
import gc
import shutil
import threading
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exo.chat import Alternative, Sampling, TokenLogprob
from exo.errors import BadRequest, ContextLengthExceeded, EngineFailed, ModelNotFound, NotFound, NotReady
from rkllama.vendor.abi import Release, since, until
from rkllama.vendor.asks import (
    Ask,
    Embed,
    Event,
    Finished,
    Floats,
    Mode,
    Options,
    Perf,
    Prompt,
    SlotDone,
    Stepwise,
    Token,
    Tokens,
    Vector,
    Waiting,
)
from rkllama.vendor.library import Library, open_library
from rkllama.vendor.runtime import Runtime

WAIT = 20.0  # seconds until a test that hangs is called a failure


@dataclass
class Bench:
    """A library of its own, whose variables show what C was given."""

    library: Library
    model: Path
    runtimes: list[Runtime] = field(default_factory=list)

    def load(self, **options: Any) -> Runtime:
        self.runtimes.append(Runtime(self.library, Options(**{"model": self.model, **options})))
        return self.runtimes[-1]

    def number(self, name: str) -> int:
        return ctypes.c_int.in_dll(self.library.cdll, f"scripted_{name}").value

    def set(self, name: str, value: int) -> None:
        ctypes.c_int.in_dll(self.library.cdll, f"scripted_{name}").value = value

    def text(self, name: str) -> str:
        buffer = (ctypes.c_char * 256).in_dll(self.library.cdll, f"scripted_{name}")
        return ctypes.string_at(buffer).decode()

    def struct(self, name: str, ctype: str) -> Any:
        return self.library.abi.structs[ctype].in_dll(self.library.cdll, f"scripted_{name}")

    @property
    def param(self) -> Any:
        return self.struct("param", "RKLLMParam")

    @property
    def infer(self) -> Any:
        return self.struct("infer", "RKLLMInferParam")


MakeBench = Callable[[Release], Bench]


@pytest.fixture
def make_bench(scripted: Callable[[Release], Path], tmp_path: Path) -> Iterator[MakeBench]:
    made: list[Bench] = []

    def make(release: Release) -> Bench:
        # A file of its own, as the linker loads one file only once.
        path = Path(shutil.copy(scripted(release), tmp_path / f"{release}.so"))
        model = tmp_path / "model.rkllm"
        model.touch()
        made.append(Bench(open_library(path), model))
        return made[-1]

    yield make
    for bench in made:
        for runtime in bench.runtimes:
            runtime.destroy()
        assert bench.number("alive") == 0
        assert bench.number("reentries") == 0
        assert bench.number("aborts_in_callback") == 0


@pytest.fixture(params=Release, ids=str)
def bench(request: pytest.FixtureRequest, make_bench: MakeBench) -> Bench:
    """One for each release, unless a test chooses."""
    return make_bench(request.param)


newest = pytest.mark.parametrize("bench", [Release.V1_3], indirect=True, ids=str)


def releases(chosen: frozenset[Release]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bench", sorted(chosen), indirect=True, ids=str)


def prompt(text: str, **rest: Any) -> Ask:
    return Ask(inputs=(Prompt(text),), **rest)


def hear(runtime: Runtime, ask: Ask) -> tuple[list[Event], Finished]:
    events: list[Event] = []
    return events, runtime.run(ask, events.append)


class Background:
    """A run on another thread, which can be waited for at its first event and at its end."""

    def __init__(self, runtime: Runtime, ask: Ask, on_event: Callable[[Event], None] | None = None) -> None:
        self.events: list[Event] = []
        self.finished = Finished()
        self.error: BaseException | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(runtime, ask, on_event), daemon=True)
        self._thread.start()

    def _run(self, runtime: Runtime, ask: Ask, on_event: Callable[[Event], None] | None) -> None:
        def hear(event: Event) -> None:
            self.events.append(event)
            self._started.set()
            if on_event:
                on_event(event)

        try:
            self.finished = runtime.run(ask, hear)
        except BaseException as error:
            self.error = error

    def started(self) -> "Background":
        assert self._started.wait(WAIT)
        return self

    def ended(self) -> "Background":
        self._thread.join(WAIT)
        assert not self._thread.is_alive()
        return self


# Loading


def test_what_is_left_open_keeps_the_runtimes_default(bench: Bench) -> None:
    runtime = bench.load()
    param = bench.param
    assert param.model_path.endswith(b"model.rkllm")
    # Without a limit of ours an answer may fill the context.
    assert (param.max_context_len, param.max_new_tokens, param.top_k) == (512, 512, 40)
    assert (param.top_p, param.temperature, param.repeat_penalty) == (0.5, 0.75, 1.5)
    assert param.is_async is False
    assert runtime.max_context_len == 512
    assert runtime.samples_per_run == (bench.library.release >= Release.V1_3)


def test_options_reach_the_library(bench: Bench) -> None:
    sampling = Sampling(
        temperature=0.25, top_p=0.125, top_k=7, repeat_penalty=2, presence_penalty=1, frequency_penalty=-1,
        max_tokens=9,
    )  # fmt: skip
    bench.load(max_context_len=1024, skip_special_token=True, base_domain_id=3, sampling=sampling)
    param = bench.param
    # Before 1.3.0 it could not be raised for a run, so it is kept by counting.
    limit = 9 if bench.library.release >= Release.V1_3 else 1024
    assert (param.max_context_len, param.max_new_tokens, param.top_k) == (1024, limit, 7)
    assert (param.top_p, param.temperature, param.repeat_penalty) == (0.125, 0.25, 2)
    assert (param.presence_penalty, param.frequency_penalty) == (1, -1)
    assert param.skip_special_token is True
    assert param.extend_param.base_domain_id == 3


LATER: dict[str, tuple[Any, Release]] = {
    "n_keep": (12, Release.V1_2_0),
    "embed_flash": (True, Release.V1_2_0),
    "n_batch": (4, Release.V1_2_1),
    "ignore_eos_token": (True, Release.V1_3),
}


@pytest.mark.parametrize("name", LATER)
def test_an_option_is_refused_where_the_release_has_it_not(bench: Bench, name: str) -> None:
    value, first = LATER[name]
    if bench.library.release < first:
        with pytest.raises(BadRequest, match=f"it needs {first}".replace(".", r"\.")):
            bench.load(**{name: value})
        assert bench.number("alive") == 0
        return
    bench.load(**{name: value})
    param, extend = bench.param, bench.param.extend_param
    assert getattr(param if hasattr(param, name) else extend, name) == value


def test_the_cpus_are_a_hint_that_the_first_release_does_not_take(bench: Bench) -> None:
    bench.load(enabled_cpus=0xF0)
    if bench.library.release >= Release.V1_2_0:
        extend = bench.param.extend_param
        assert (extend.enabled_cpus_mask, extend.enabled_cpus_num) == (0xF0, 4)
    else:
        assert bench.number("alive") == 1


def test_a_number_too_large_for_c_is_refused(bench: Bench) -> None:
    with pytest.raises(BadRequest, match="out of range for max_context_len"):
        bench.load(max_context_len=2**32 + 512)


@pytest.mark.parametrize(
    ("name", "sampling"),
    [
        ("seed", Sampling(seed=1)),
        ("min_p", Sampling(min_p=0.1)),
        ("logit_bias", Sampling(logit_bias={1: 2.0})),
    ],
)
@newest
def test_sampling_that_no_release_has_is_refused(bench: Bench, name: str, sampling: Sampling) -> None:
    with pytest.raises(BadRequest) as caught:
        bench.load(sampling=sampling)
    assert caught.value.param == name
    with pytest.raises(BadRequest) as caught:
        hear(bench.load(), prompt("hello", sampling=sampling))
    assert caught.value.param == name


def test_a_temperature_of_zero_is_greedy(bench: Bench) -> None:
    bench.load(sampling=Sampling(temperature=0, top_k=20))
    assert bench.param.top_k == 1
    assert bench.param.temperature == 0.75


def test_a_missing_model_is_noticed_before_the_library_is_asked(bench: Bench) -> None:
    with pytest.raises(ModelNotFound, match=r"/no/such\.rkllm"):
        bench.load(model=Path("/no/such.rkllm"))
    assert bench.param.max_context_len == 0


def test_a_failed_load(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "broken.rkllm").touch()
    with pytest.raises(EngineFailed, match=r"broken\.rkllm: rkllm_init returned -1"):
        bench.load(model=tmp_path / "broken.rkllm")


def test_destroying_twice_frees_once(bench: Bench) -> None:
    with bench.load() as runtime:
        pass
    assert bench.number("alive") == 0
    runtime.destroy()
    for use in (lambda: hear(runtime, prompt("hello")), lambda: runtime.load_lora(bench.model, "a", 0.5)):
        with pytest.raises(NotReady, match="unloaded"):
            use()
    assert runtime.abort() is False


# Running


def test_an_answer(bench: Bench) -> None:
    """ "é" and "€" take two and three tokens here: the text comes with the last."""
    events, finished = hear(bench.load(), prompt("hé€"))
    e, euro = "é".encode(), "€".encode()
    assert events == [
        Token(b"h", ord("h")),
        Waiting(e[0]),
        Token(e, e[1]),
        Waiting(euro[0]),
        Waiting(euro[1]),
        Token(euro, euro[2]),
    ]
    figures = Perf(
        prefill_tokens=6, prefill_seconds=0.25, generate_tokens=6, generate_seconds=1.5, memory_mb=64
    )
    known = bench.library.release >= Release.V1_2_1
    assert finished == (Finished(figures, context_tokens=10) if known else Finished())


def test_one_run_after_another(bench: Bench) -> None:
    runtime = bench.load()
    for text in ("one", "two", "three") * 3:
        events, _ = hear(runtime, prompt(text))
        assert b"".join(event.text for event in events if isinstance(event, Token)) == text.encode()


def test_tokens_in(bench: Bench) -> None:
    ids = tuple(range(0, 2**31, 2**23))
    runtime = bench.load()
    gc.collect()
    events, _ = hear(runtime, Ask(inputs=(Tokens(ids),)))
    assert events == [Token(b"t", each) for each in ids]


@pytest.mark.parametrize("ids", [(), (1, -1), (2**31,)])
def test_tokens_that_are_none(bench: Bench, ids: tuple[int, ...]) -> None:
    with pytest.raises(BadRequest):
        hear(bench.load(), Ask(inputs=(Tokens(ids),)))


def test_more_tokens_than_the_context_holds(bench: Bench) -> None:
    runtime = bench.load()
    hear(runtime, Ask(inputs=(Tokens((1,) * 511),)))
    with pytest.raises(ContextLengthExceeded, match="512 tokens, the context only 512"):
        hear(runtime, Ask(inputs=(Tokens((1,) * 512),)))


def test_text_that_c_would_cut_short_is_refused(bench: Bench) -> None:
    runtime = bench.load()
    with pytest.raises(BadRequest, match="NUL"):
        hear(runtime, prompt("one\0two"))
    with pytest.raises(BadRequest, match="Unicode"):
        hear(runtime, prompt("\ud800"))


@releases(since(Release.V1_2_1))
def test_role_and_thinking(bench: Bench) -> None:
    runtime = bench.load()
    for given, role, thinking in (
        (Prompt("a"), "user", 0),
        (Prompt("a", role="tool"), "tool", 0),
        (Prompt("a", thinking=True), "user", 1),
        (Prompt("a", thinking=False), "user", 0),
    ):
        hear(runtime, Ask(inputs=(given,)))
        assert (bench.text("role"), bench.number("thinking")) == (role, thinking)


@releases(until(Release.V1_2_0))
def test_role_and_thinking_before_1_2_1(bench: Bench) -> None:
    runtime = bench.load()
    for given in (Prompt("a", role="tool"), Prompt("a", thinking=True), Prompt("a", thinking=False)):
        with pytest.raises(BadRequest, match=r"needs 1\.2\.1"):
            hear(runtime, Ask(inputs=(given,)))


def test_keep_history(bench: Bench) -> None:
    runtime = bench.load()
    if bench.library.release < Release.V1_2_0:
        with pytest.raises(BadRequest, match="keep_history"):
            hear(runtime, prompt("a", keep_history=True))
        return
    for keep in (True, False):
        hear(runtime, prompt("a", keep_history=keep))
        assert bench.infer.keep_history == keep


def test_lora_and_prompt_cache(bench: Bench, tmp_path: Path) -> None:
    runtime = bench.load()
    hear(runtime, prompt("a", lora="poet", save_prompt_cache=tmp_path / "cache"))
    assert (bench.text("lora"), bench.text("cache")) == ("poet", str(tmp_path / "cache"))
    hear(runtime, prompt("a"))
    assert (bench.text("lora"), bench.text("cache")) == ("", "")


def test_max_tokens_end_a_run(bench: Bench) -> None:
    """The scripted runtime heeds no limit of its own; before 1.3.0 none could be passed to it anyway."""
    runtime = bench.load(sampling=Sampling(max_tokens=4))
    native = bench.library.release >= Release.V1_3
    for asked, limit in ((2, 2), (None, 4), (6, 6), (1, 1)):
        events, finished = hear(runtime, prompt("hé€abc", max_tokens=asked))
        if native:
            assert bench.infer.max_new_tokens == limit
        else:
            # Tokens whose text waits for the rest of a character are tokens, too.
            assert len(events) == limit
        assert finished.cut
        assert not finished.aborted
    events, finished = hear(runtime, prompt("hé€abc", max_tokens=100))
    assert len(events) == 9
    assert not finished.cut
    for none in (0, -1):
        with pytest.raises(BadRequest) as refused:
            hear(runtime, prompt("a", max_tokens=none))
        assert refused.value.param == "max_tokens"


@releases(until(Release.V1_2_1))
def test_a_run_that_has_made_its_tokens_is_told_to_stop(bench: Bench) -> None:
    """And what it returns then is no failure, nor is it an abort."""
    runtime = bench.load()
    events, finished = hear(runtime, prompt("wait", max_tokens=1))
    assert events == [Token(b"w", ord("w"))]
    assert finished.cut
    assert not finished.aborted
    assert bench.number("aborts") == 1
    events, finished = hear(runtime, prompt("ok"))
    assert len(events) == 2
    assert not finished.cut


@releases(until(Release.V1_2_1))
def test_who_aborts_a_run_at_its_limit_has_aborted_it(bench: Bench) -> None:
    runtime = bench.load()
    aborted: list[bool] = []
    asked = prompt("wait", max_tokens=1)
    run = Background(runtime, asked, lambda event: aborted.append(runtime.abort())).ended()
    assert aborted == [True]
    assert run.finished.aborted
    assert not run.finished.cut


@newest
def test_max_tokens_of_the_run_go_before_those_of_its_sampling(bench: Bench) -> None:
    runtime = bench.load(sampling=Sampling(max_tokens=33))
    for asked, limit in (
        (prompt("a", max_tokens=3, sampling=Sampling(max_tokens=5)), 3),
        (prompt("a", sampling=Sampling(max_tokens=5)), 5),
        (prompt("a", sampling=Sampling(top_p=0.5)), 33),
        (prompt("a"), 33),
    ):
        hear(runtime, asked)
        assert bench.infer.max_new_tokens == limit
    hear(bench.load(), prompt("a"))
    assert bench.infer.max_new_tokens == 512


@releases(since(Release.V1_2_1))
def test_a_full_context_shows_in_its_tokens(bench: Bench) -> None:
    """The scripted runtime says that it holds ten."""
    for limit, cut in ((10, True), (11, True), (12, False)):
        events, finished = hear(bench.load(max_context_len=limit), prompt("abc"))
        assert len(events) == 3
        assert (finished.context_tokens, finished.cut) == (10, cut)
    assert not hear(bench.load(max_context_len=10), prompt("abc", mode="hidden"))[1].cut
    bench.set("refuse", -1)
    finished = hear(bench.runtimes[0], prompt("abc"))[1]
    assert (finished.context_tokens, finished.cut) == (None, False)
    bench.set("refuse", 0)


@releases(until(Release.V1_2_1))
def test_sampling_per_run_is_refused_before_1_3(bench: Bench) -> None:
    with pytest.raises(BadRequest, match=r"per request needs 1\.3\.0") as caught:
        hear(bench.load(), prompt("a", sampling=Sampling(temperature=0.5)))
    assert caught.value.param == "sampling"


@newest
def test_sampling_per_run(bench: Bench) -> None:
    """What a run leaves open is as the model was loaded, whatever the run before asked for."""
    runtime = bench.load(sampling=Sampling(top_k=9, top_p=0.25, max_tokens=33))

    def sampled(sampling: Sampling | None) -> tuple[int, float, float, float, float, int]:
        hear(runtime, prompt("a", sampling=sampling))
        used = bench.struct("sampling", "RKLLMSamplingParam")
        drawn = (used.top_k, used.top_p, used.temperature, used.repeat_penalty, used.mirostat_tau)
        return (*drawn, bench.infer.max_new_tokens)

    assert sampled(Sampling(temperature=0.125, top_p=0.5)) == (9, 0.5, 0.125, 1.5, 5, 33)
    assert sampled(Sampling(repeat_penalty=1, max_tokens=3)) == (9, 0.25, 0.75, 1, 5, 3)
    assert sampled(Sampling(temperature=0)) == (1, 0.25, 0.75, 1.5, 5, 33)
    assert sampled(None) == (9, 0.25, 0.75, 1.5, 5, 33)


@newest
def test_a_run_may_be_less_than_greedy_where_the_model_was_loaded_so(bench: Bench) -> None:
    runtime = bench.load(sampling=Sampling(temperature=0))
    hear(runtime, prompt("a", sampling=Sampling(temperature=0.5)))
    used = bench.struct("sampling", "RKLLMSamplingParam")
    assert (used.top_k, used.temperature) == (40, 0.5)


@pytest.mark.parametrize("mode", ["hidden", "logits"])
def test_floats_are_copied_while_they_last(bench: Bench, mode: Mode) -> None:
    runtime = bench.load()
    if mode == "logits" and bench.library.release < Release.V1_2_0:
        with pytest.raises(BadRequest, match="logits"):
            hear(runtime, prompt("a", mode=mode))
        return
    events, finished = hear(runtime, prompt("a", mode=mode))
    values = array("f", (0.5, 1.5, 2.5, 3.5, 4.5, 5.5))
    if mode == "logits":  # only the last token's say what comes next
        assert events == [Floats(values[3:].tobytes(), rows=1, columns=3)]
    else:
        assert events == [Floats(values.tobytes(), rows=2, columns=3)]
        assert isinstance(events[0], Floats)
        assert memoryview(events[0].values).cast("B").cast("f", (2, 3))[1, 0] == 3.5
    assert not finished.cut


@releases(since(Release.V1_2_1))
def test_several_inputs_at_once(bench: Bench) -> None:
    runtime = bench.load(n_batch=3)
    events, _ = hear(runtime, Ask(inputs=(Prompt("abc"), Prompt(""), Prompt("x"))))
    assert events == [
        Token(b"a", ord("a"), slot=0),
        SlotDone(1),
        Token(b"x", ord("x"), slot=2),
        Token(b"b", ord("b"), slot=0),
        SlotDone(2),
        Token(b"c", ord("c"), slot=0),
    ]
    with pytest.raises(BadRequest, match="1 inputs were given where n_batch is 3"):
        hear(runtime, prompt("a"))
    limited = Ask(inputs=(Prompt("abc"), Prompt("a"), Prompt("x")), max_tokens=1)
    if bench.library.release < Release.V1_3:
        with pytest.raises(BadRequest, match="n_batch > 1") as refused:
            hear(runtime, limited)
        assert refused.value.param == "max_tokens"
        assert bench.load(n_batch=3, sampling=Sampling(max_tokens=9)).n_batch == 3
        assert bench.param.max_new_tokens == 9
    else:
        hear(runtime, limited)
        assert bench.infer.max_new_tokens == 1


@pytest.mark.parametrize(("text", "told"), [("error", "reported an error"), ("code", "returned -7")])
def test_a_run_that_fails(bench: Bench, text: str, told: str) -> None:
    runtime = bench.load()
    with pytest.raises(EngineFailed, match=told):
        hear(runtime, prompt(text))
    assert hear(runtime, prompt("a"))[0] == [Token(b"a", ord("a"))]


def test_a_last_call_without_a_result(bench: Bench) -> None:
    events, finished = hear(bench.load(), prompt("null"))
    assert events == []
    assert finished.perf is None


# One thing at a time


def test_entering_twice_is_refused(bench: Bench, tmp_path: Path) -> None:
    runtime = bench.load()
    run = Background(runtime, prompt("wait")).started()
    entries: list[Callable[[], object]] = [
        lambda: hear(runtime, prompt("second")),
        lambda: runtime.load_lora(bench.model, "a", 0.5),
        lambda: runtime.load_prompt_cache(bench.model),
        runtime.destroy,
    ]
    if bench.library.release >= Release.V1_2_0:
        entries += [runtime.clear_kv_cache, lambda: runtime.set_chat_template("", "", "")]
    for entry in entries:
        with pytest.raises(NotReady, match="one thing at a time"):
            entry()
    assert bench.number("calls") == 0
    assert runtime.abort()
    assert run.ended().finished.aborted


def test_entering_from_a_callback_is_refused(bench: Bench) -> None:
    runtime = bench.load()
    with pytest.raises(NotReady, match="one thing at a time"):
        runtime.run(prompt("a"), lambda event: runtime.destroy())
    assert hear(runtime, prompt("b"))[0] == [Token(b"b", ord("b"))]


def test_an_abort_ends_the_run_without_another_token(bench: Bench) -> None:
    runtime = bench.load()
    run = Background(runtime, prompt("wait")).started()
    assert runtime.abort() is True
    run.ended()
    assert run.error is None
    assert run.finished.aborted
    assert run.events == [Token(b"w", ord("w"))]
    # The next run knows nothing of it.
    events, finished = hear(runtime, prompt("ok"))
    assert len(events) == 2
    assert not finished.aborted


def test_an_abort_with_nothing_to_abort_does_not_reach_the_library(bench: Bench) -> None:
    runtime = bench.load()
    assert runtime.abort() is False
    hear(runtime, prompt("a"))
    assert runtime.abort() is False
    assert bench.number("aborts") == 0


def test_a_run_that_says_it_is_over_is_not_aborted(bench: Bench) -> None:
    """The library might remember it, and abort the run after."""
    runtime = bench.load()
    run = Background(runtime, prompt("linger"))
    while not bench.number("lingering"):
        pass
    try:
        assert runtime.abort() is False
    finally:
        bench.set("leave", 1)
    assert not run.ended().finished.aborted
    assert bench.number("aborts") == 0


def test_an_abort_from_within_the_callback(bench: Bench) -> None:
    runtime = bench.load()
    aborted: list[bool] = []
    run = Background(runtime, prompt("wait"), lambda event: aborted.append(runtime.abort())).ended()
    assert aborted == [True]
    assert run.finished.aborted
    assert run.events == [Token(b"w", ord("w"))]


def test_an_abort_unheard_during_prefill_is_repeated(bench: Bench) -> None:
    runtime = bench.load()
    bench.set("drop_aborts", 1)
    run = Background(runtime, prompt("prefill"))
    while not runtime.abort():  # until the run is under way
        pass
    assert run.ended().finished.aborted
    assert run.events == []
    assert bench.number("aborts") == 2


def test_an_exception_in_the_callback_ends_the_run_and_comes_out_of_it(bench: Bench) -> None:
    runtime = bench.load()
    heard: list[Event] = []

    def fail(event: Event) -> None:
        heard.append(event)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        runtime.run(prompt("wait"), fail)
    assert heard == [Token(b"w", ord("w"))]
    assert bench.number("aborts") == 1
    assert hear(runtime, prompt("b"))[0] == [Token(b"b", ord("b"))]


def test_even_an_exit_in_the_callback_comes_out(bench: Bench) -> None:
    def leave(event: Event) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        bench.load().run(prompt("wait"), leave)


@newest
def test_aborting_at_any_moment(bench: Bench) -> None:
    """Threads abort as fast as they can while runs come and go: every run ends, and none is entered twice."""
    runtime = bench.load()
    stop = threading.Event()

    def keep_aborting() -> None:
        while not stop.is_set():
            runtime.abort()

    threads = [threading.Thread(target=keep_aborting) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert hear(runtime, prompt("wait"))[1].aborted
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT)
    events, finished = hear(runtime, prompt("hello"))
    assert len(events) == 5
    assert not finished.aborted


# Between runs


def test_adapters_and_prompt_caches(bench: Bench, tmp_path: Path) -> None:
    runtime = bench.load()
    one, two = tmp_path / "one", tmp_path / "two"
    one.touch()
    two.touch()
    runtime.load_lora(one, "poet", 0.5)  # which calls back without a run to belong to
    assert bench.text("texts") == f"lora|{one}|poet"
    runtime.release_prompt_cache()  # nothing to release
    assert bench.number("calls") == 1
    runtime.load_prompt_cache(one)
    assert bench.text("texts") == f"load|{one}"
    runtime.load_prompt_cache(two)  # lets go of the first before
    assert (bench.text("texts"), bench.number("calls")) == (f"load|{two}", 4)
    runtime.release_prompt_cache()
    assert bench.text("texts") == "release"
    for load in (runtime.load_prompt_cache, lambda path: runtime.load_lora(path, "poet")):
        with pytest.raises(NotFound, match="missing"):
            load(tmp_path / "missing")


@releases(since(Release.V1_2_0))
def test_template_and_clearing(bench: Bench) -> None:
    runtime = bench.load()
    runtime.set_chat_template("S", "", "E")
    assert bench.text("texts") == "template|S||E"
    runtime.clear_kv_cache()
    assert bench.text("texts") == "clear|all"
    runtime.clear_kv_cache(keep_system_prompt=True)
    assert bench.text("texts") == "clear|keep"
    bench.set("refuse", -3)
    with pytest.raises(EngineFailed, match="rkllm_clear_kv_cache returned -3"):
        runtime.clear_kv_cache()
    bench.set("refuse", 0)


@releases(since(Release.V1_2_1))
def test_tools_and_size_of_the_cache(bench: Bench) -> None:
    runtime = bench.load(n_batch=2)
    runtime.set_function_tools("S", "[]", "tool_response")
    assert bench.text("texts") == "tools|S|[]|tool_response"
    assert runtime.kv_cache_size() == (10, 11)


@releases(until(Release.V1_2_0))
def test_what_older_releases_lack(bench: Bench) -> None:
    runtime = bench.load()
    lacking: list[Callable[[], object]] = [
        lambda: runtime.set_function_tools("", "", ""),
        runtime.kv_cache_size,
    ]
    if bench.library.release < Release.V1_2_0:
        lacking += [runtime.clear_kv_cache, lambda: runtime.set_chat_template("", "", "")]
    for call in lacking:
        with pytest.raises(BadRequest, match="has no rkllm_"):
            call()


def test_what_cannot_be_freed_says_so(bench: Bench) -> None:
    runtime = bench.load()
    bench.set("refuse", -1)
    with pytest.raises(EngineFailed, match="rkllm_destroy returned -1"):
        runtime.destroy()


# The values


def test_values_cross_a_pipe() -> None:
    ask = Ask(inputs=(Prompt("a"), Tokens((1, 2))), sampling=Sampling(top_k=1), save_prompt_cache=Path("/x"))
    options = Options(model=Path("/m"), enabled_cpus=0xF0)
    biased = Sampling(logit_bias={3: 1.5}, seed=-1)
    stepwise = Stepwise(prompt="a", vocabulary=Path("/v"), sampling=biased, form="start: a", logprobs=2)
    likely = Alternative("a", -0.5, (97,))
    events: list[Event | Finished] = [
        Token(b"\xff", 3),
        Waiting(1),
        Floats(b"0123", 1, 1),
        SlotDone(2),
        Token(b"a", 1, logprobs=TokenLogprob(likely, (likely,))),
        Vector((0.6, -0.8), 3),
        Finished(cut=True, context_tokens=7),
    ]
    for value in (ask, options, stepwise, Embed("a")):
        packed = msgspec.msgpack.encode(value, enc_hook=str)
        decoded = msgspec.msgpack.decode(packed, type=type(value), dec_hook=lambda kind, value: kind(value))
        assert decoded == value
    packed = msgspec.msgpack.encode(events)
    assert msgspec.msgpack.decode(packed, type=list[Event | Finished]) == events
