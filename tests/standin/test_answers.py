"""What the stand-in answers is what the CPU engine answers, by every way there is to ask."""

import ctypes
import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from demo.engine_check import LlamaServer
from demo.template import render
from tests.standin.vendor import (
    ERROR,
    FINISH,
    HIDDEN,
    LOGITS,
    NORMAL,
    OLD_HIDDEN,
    WAITING,
    Event,
    Handle,
    Library,
)

Load = Callable[[str], Library]
FileFor = Callable[..., Path]
QUESTIONS = ("What is 145 + 278?", "How much is 640 - 71?", "Hello", "Count from 3 to 9.", "Spell careful.")
SUM = "What is 145 + 278?"
IM_END, ENDOFTEXT = 505, 503


def prompt(*contents: str, thinking: bool = True, system: str | None = None) -> str:
    """A conversation that begins and ends with the user."""
    roles = ("user", "assistant") * len(contents)
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return render(messages, answering=True, thinking=thinking)


@cache
def by_llama(llama: LlamaServer, text: str, most: int = -1) -> list[int]:
    body = {"prompt": text, "temperature": 0, "n_predict": most, "return_tokens": True, "cache_prompt": False}
    return [id for id in llama.post("/completion", body)["tokens"] if id not in (IM_END, ENDOFTEXT)]


@pytest.fixture
def start(load: Load, file_for: FileFor) -> Callable[..., Handle]:
    def started(release: str = "1.2.3", *, context: int = 2048, **settings: Any) -> Handle:
        return load(release).start(file_for(release, context=context), **settings)

    return started


Start = Callable[..., Handle]


@pytest.mark.parametrize("thinking", [True, False])
def test_greedy_answers_equal_the_cpu_engines(
    start: Start, llama: LlamaServer, tokenizer: Tokenizer, thinking: bool
) -> None:
    earlier = ("Hello", "Hello! Ask me for a small sum.", "How much is 12 + 7?")
    prompts = [prompt(question, thinking=thinking) for question in QUESTIONS]
    prompts += [prompt(*earlier, thinking=thinking), prompt(SUM, thinking=thinking, system="Be brief. é漢")]
    with start(max_new_tokens=64) as handle:
        for text in prompts:
            assert handle.ask(tokenizer.encode(text).ids) == by_llama(llama, text, 64), text


def test_every_release_answers_alike(
    release: str, start: Start, llama: LlamaServer, tokenizer: Tokenizer
) -> None:
    with start(release) as handle:
        tokens = handle.ask(tokenizer.encode(prompt(SUM)).ids)
        assert tokens == by_llama(llama, prompt(SUM), 64)
        assert handle.text() == tokenizer.decode(tokens)
        assert handle.text().endswith("145 + 278 = 423")
        # From 1.2.0 the model's own template stands around a prompt; before, the caller writes it.
        assert handle.ask(prompt(SUM) if release == "1.1.4" else SUM) == tokens


def test_the_thinking_switch_and_the_roles_follow_the_template(start: Start, tokenizer: Tokenizer) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"a": ["]", '"}']}}}, {"n": 2}]
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": SUM}]
    answered = [asked[0], {"role": "tool", "content": "7"}]
    with start() as handle:
        for thinking in (True, False):
            expected = handle.ask(tokenizer.encode(prompt(SUM, thinking=thinking)).ids)
            assert handle.ask(SUM, thinking=thinking) == expected
        handle.lib.rkllm_set_function_tools(handle.pointer, b"Be brief.", json.dumps(tools).encode(), b"")
        for messages, role, text in ((asked, "user", SUM), (answered, "tool", "7")):
            whole = tokenizer.encode(render(messages, tools=tools, answering=True)).ids
            handle.run(text, role=role)
            assert evaluated_tokens(handle, whole) == whole
        assert handle.run(SUM, role="nobody") == -1


def evaluated_tokens(handle: Handle, expected: list[int]) -> list[int]:
    """What the last run read, by asking how much of `expected` the cache holds."""
    assert handle.run(expected, mode=LOGITS) == 0
    reused = len(expected) - int(handle.events[-1].perf["prefill_tokens"])
    return expected if reused == len(expected) - 1 else expected[:reused]


def test_a_template_of_ones_own_and_the_bypass(start: Start, tokenizer: Tokenizer) -> None:
    with start("1.2.0") as handle:
        expected = handle.ask(tokenizer.encode(prompt(SUM, system="Be brief.")).ids)
        assert handle.template("", "", "") == 0
        assert handle.ask(prompt(SUM, system="Be brief.")) == expected
        before, after = prompt("\0", system="Be brief.").split("\0")
        system, prefix = before[: before.index("<|im_start|>user")], "<|im_start|>user\n"
        assert handle.template(system, prefix, after) == 0
        assert handle.ask(SUM) == expected


def test_a_known_prefix_is_not_evaluated_again_and_changes_nothing(
    start: Start, tokenizer: Tokenizer
) -> None:
    first = tokenizer.encode(prompt(SUM)).ids
    with start() as fresh, start() as handle:
        answer = handle.ask(first)
        assert handle.events[-1].perf["prefill_tokens"] == len(first)
        assert handle.ask(first) == answer
        assert handle.events[-1].perf["prefill_tokens"] == 1  # the last one gives the logits
        grown = tokenizer.encode(prompt(SUM, "145 + 278 = 423", "And 1 + 1?")).ids
        shared = len([1 for a, b in zip(grown, first + answer, strict=False) if a == b])
        assert handle.ask(grown) == fresh.ask(grown)
        assert handle.events[-1].perf["prefill_tokens"] == len(grown) - next(
            (i for i, (a, b) in enumerate(zip(grown, first + answer, strict=False)) if a != b), shared
        )


def test_the_oldest_release_reuses_nothing_by_itself(
    start: Start, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Shown by spoiling the stored cache: only what is read from it can change an answer."""
    ids, path = tokenizer.encode(prompt(SUM)).ids, tmp_path / "cache"
    with start("1.1.4") as handle:
        expected = handle.ask(ids, cache=(str(path), True))
        spoilt = bytearray(path.read_bytes())
        spoilt[-4096:] = bytes(4096)
        path.write_bytes(spoilt)
        assert handle.ask(ids) == expected
        assert handle.lib.rkllm_load_prompt_cache(handle.pointer, str(path).encode()) == 0
        assert handle.run(ids) == 0
        changed = [event.tokens for event in handle.events]
        assert handle.lib.rkllm_release_prompt_cache(handle.pointer) == 0
        assert handle.ask(ids) == expected
        assert changed


def test_prompt_cache_files(start: Start, tokenizer: Tokenizer, tmp_path: Path) -> None:
    ids, path = tokenizer.encode(prompt(SUM)).ids, str(tmp_path / "cache")
    with start() as handle:
        expected = handle.ask(ids, cache=(path, True))
    with start() as handle:
        load = handle.lib.rkllm_load_prompt_cache
        assert load(handle.pointer, b"/nowhere") == -1
        assert load(handle.pointer, path.encode()) == 0
        assert load(handle.pointer, path.encode()) == -1, "the first must be released"
        assert handle.ask(ids) == expected
        assert handle.events[-1].perf["prefill_tokens"] == 1
        assert handle.lib.rkllm_release_prompt_cache(handle.pointer) == 0
        assert load(handle.pointer, path.encode()) == 0
    (tmp_path / "cache").write_bytes((tmp_path / "cache").read_bytes()[:-1])
    with start() as handle:
        assert handle.lib.rkllm_load_prompt_cache(handle.pointer, path.encode()) == -1


def test_history_is_kept_when_asked_for(start: Start, tokenizer: Tokenizer) -> None:
    """The next turn goes behind the answer as it was given, thought and all."""
    opening = tokenizer.encode(prompt(SUM)).ids
    second = tokenizer.encode(
        "<|im_end|>\n<|im_start|>user\nAnd 2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    ).ids
    with start() as handle:
        first = handle.ask(SUM, keep_history=1)
        assert handle.cached() == len(opening) + len(first)
        remembered = handle.ask("And 2 + 2?", keep_history=1)
        assert handle.events[-1].perf["prefill_tokens"] == len(second)
        whole = opening + first + second
        assert handle.cached() == len(whole) + len(remembered)
        assert handle.ask(whole) == remembered
        assert handle.ask("And 2 + 2?", keep_history=1) == handle.ask("And 2 + 2?"), "that run kept none"


def test_clearing_the_cache(start: Start, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(prompt(SUM, system="Be brief.")).ids
    system = tokenizer.encode("<|im_start|>system\nBe brief.<|im_end|>\n").ids
    with start() as handle:
        clear = handle.lib.rkllm_clear_kv_cache
        expected = handle.ask(ids)
        assert clear(handle.pointer, 0, None, None) == 0
        assert handle.cached() == 0
        assert handle.ask(ids) == expected
        assert handle.events[-1].perf["prefill_tokens"] == len(ids)
        handle.template("<|im_start|>system\nBe brief.<|im_end|>\n", "", "")
        assert clear(handle.pointer, 1, None, None) == 0
        assert handle.cached() == len(system)
    with start("1.2.0") as handle:
        assert handle.lib.rkllm_clear_kv_cache(handle.pointer, 0) == 0


def test_logits_say_what_greedy_chooses(start: Start, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(prompt(SUM)).ids
    for release in ("1.2.0", "1.2.3", "1.3.0"):
        with start(release) as handle:
            answer = handle.ask(ids)
            chosen: list[int] = []
            given = ids
            while len(chosen) < len(answer):
                assert handle.run(given, mode=LOGITS, keep_history=1) == 0
                rows = handle.events[0].logits[0]
                assert [event.state for event in handle.events] == [NORMAL, FINISH]
                last = rows[-512:]
                chosen.append(last.index(max(last)))
                given = chosen[-1:]
            assert chosen == answer
            assert len(rows) == 512, "only the new token's"


def test_the_last_hidden_layer(release: str, start: Start, tokenizer: Tokenizer) -> None:
    """Its product with the tied embeddings is the logits; here by shape, state and effect on greedy."""
    ids = tokenizer.encode(prompt("Hello")).ids
    with start(release) as handle:
        assert handle.run(ids, mode=HIDDEN) == 0
        assert [event.state for event in handle.events] == [
            OLD_HIDDEN if release == "1.1.4" else NORMAL,
            FINISH,
        ]
        hidden = handle.events[0].hidden[0]
        assert len(hidden) == len(ids) * 128
        assert all(map(math.isfinite, hidden))


def test_what_a_callback_was_given_is_spoilt_afterwards(start: Start, tokenizer: Tokenizer) -> None:
    kept: list[Any] = []
    with start() as handle:

        def keep(event: Event) -> int:
            result = handle.raw[0]
            kept.append((ctypes.cast(result.logits.logits, ctypes.c_void_p).value, result.logits.num_tokens))
            return 0

        handle.on_event = keep
        handle.run(tokenizer.encode("Hello").ids, mode=LOGITS)
        address, count = kept[0]
        logits = ctypes.cast(address, ctypes.POINTER(ctypes.c_float))
        assert all(map(math.isnan, logits[: count * 512]))
        raw = ctypes.cast(handle.raw, ctypes.POINTER(ctypes.c_ubyte))
        assert raw[:72] == [0xDD] * 72


def test_sampling_is_seeded_and_obeys_its_settings(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    hot = {"top_k": 40, "temperature": 3.0, "top_p": 1.0, "max_new_tokens": 24}

    def answers(seed: str, **settings: Any) -> list[list[int]]:
        monkeypatch.setenv("STANDIN_SEED", seed)
        with start(**settings) as handle:
            return [handle.ask("Hello") for _ in range(3)]

    assert answers("1", **hot) == answers("1", **hot)
    assert answers("1", **hot) != answers("2", **hot)
    greedy = answers("1")
    assert answers("1", top_k=40, temperature=0.0) == greedy
    assert answers("1", top_k=40, temperature=3.0, top_p=0.0) == greedy, "only the likeliest is left"
    for name, value in (("repeat_penalty", 5.0), ("frequency_penalty", 9.0), ("presence_penalty", 30.0)):
        assert answers("1", **{name: value}, max_new_tokens=24) != greedy
    assert answers("1", mirostat=2, top_k=0, temperature=2.0, max_new_tokens=24, mirostat_tau=9.0) != greedy


def test_only_the_newest_release_samples_per_run(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_SEED", "5")
    hot = {"top_k": 0, "top_p": 1.0, "temperature": 5.0, "repeat_penalty": 1.0}
    with start("1.3.0") as handle:
        greedy = handle.ask("Hello")
        assert len(handle.ask("Hello", max_new_tokens=3)) == 3
        assert handle.ask("Hello", sampling=hot, max_new_tokens=20) != greedy[:20]
        assert handle.ask("Hello") == greedy


def test_incomplete_characters_wait(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Very hot sampling draws single bytes; put together they are what the tokens spell."""
    monkeypatch.setenv("STANDIN_SEED", "7")
    hot = {"top_k": 0, "top_p": 1.0, "temperature": 50.0, "max_new_tokens": 600, "ignore_eos_token": True}
    with start("1.3.0", **hot) as handle:
        handle.ask("Hello")
        waiting = [event for event in handle.events if event.state == WAITING]
        assert waiting
        assert all(event.texts == [None] and event.tokens[0] >= 0 for event in waiting)
        whole = [event.texts[0] for event in handle.events if event.state == NORMAL]
        assert all(text is not None for text in whole)
        # Two bytes that belong together come out together, or the run ended between them.
        joined = b"".join(text or b"" for text in whole)
        assert sum(len(char.encode()) > 1 for char in joined.decode(errors="ignore")) > 0


def test_special_tokens_show_only_when_asked_for(start: Start) -> None:
    with start("1.3.0", ignore_eos_token=True, max_new_tokens=80) as handle:
        handle.ask(SUM)
        assert "<|im_end|>" not in handle.text()
        assert len(handle.tokens()) == 80
    with start("1.3.0", ignore_eos_token=True, max_new_tokens=80, skip_special_token=False) as handle:
        handle.ask(SUM)
        assert "<|im_end|>" in handle.text()


def test_a_batch_answers_each_as_alone(start: Start) -> None:
    questions = QUESTIONS[:3]
    for release in ("1.2.3", "1.3.0"):
        with start(release) as single, start(release, n_batch=3) as handle:
            expected = [single.ask(question) for question in questions]
            handle.ask(*questions)
            assert [handle.tokens(slot) for slot in range(3)] == expected
            lengths = list(map(len, expected))
            for step, event in enumerate(handle.events[:-1]):
                assert [token < 0 for token in event.tokens] == [step >= length for length in lengths]


def test_a_batch_never_waits(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one state for all; a slot whose character is incomplete has its token and no text."""
    monkeypatch.setenv("STANDIN_SEED", "7")
    hot = {"top_k": 0, "top_p": 1.0, "temperature": 50.0, "max_new_tokens": 300, "ignore_eos_token": True}
    with start("1.3.0", n_batch=2, **hot) as handle:
        handle.ask("Hello", "Hello")
        assert {event.state for event in handle.events} == {NORMAL, FINISH}
        texts = [event.texts for event in handle.events[:-1]]
        assert [None, None] in texts
        assert any((one is None) != (other is None) for one, other in texts)


def test_the_context_is_a_limit(start: Start, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(prompt(SUM)).ids
    with start(max_context_len=32) as handle:
        assert len(ids) < 32
        answer = handle.ask(ids)
        assert len(ids) + len(answer) == 33, "the last token is handed out and has no place any more"
        assert handle.run(ids * 2) == -1
        assert [event.state for event in handle.events] == [ERROR]
        assert handle.ask(ids) == answer, "the handle is none the worse"
        assert handle.run([]) == -1
        assert handle.run([512]) == -1
    with start(max_new_tokens=5) as handle:
        assert len(handle.ask(SUM)) == 5


def test_pausing_and_resuming(start: Start) -> None:
    with start() as handle:
        whole = handle.ask(SUM)
        handle.on_event = lambda event: int(len(handle.events) == 5)
        assert handle.run(SUM) == 0
        assert handle.tokens() == whole[:5]
        assert all(event.state == NORMAL for event in handle.events), "a pause is no end"
        handle.on_event = lambda event: 0
        assert handle.ask(whole[5:7]) == whole[7:]


def test_a_callback_is_given_the_runs_userdata_or_else_the_handles(start: Start) -> None:
    seen: list[int | None] = []
    with start("1.3.0", callbacks={"result_userdata": ctypes.c_void_p(7)}, max_new_tokens=1) as handle:
        handle.on_userdata = seen.append
        handle.ask("Hello")
        handle.ask("Hello", userdata=9)
    assert seen == [7, 7, 9, 9]


def test_an_embedding_callback_that_fails_fails_the_run(
    start: Start, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In prefill, in decode, and when a shift evaluates anew what it keeps."""
    ids, calls = tokenizer.encode("Hello").ids, []

    def embed(_: Any, ids: Any, count: int, out: int, size: int) -> int:
        calls.append(count)
        ctypes.memset(out, 0, size)
        return -5 if len(calls) == fails_at else 0

    pointer, number = ctypes.c_void_p, ctypes.c_int32
    embed_type = ctypes.CFUNCTYPE(
        number, pointer, ctypes.POINTER(number), ctypes.c_uint64, pointer, ctypes.c_uint64
    )
    monkeypatch.setenv("STANDIN_WHEN_FULL", "shift")
    callbacks = {"embed_callback": embed_type(embed)}
    room = 16 - len(ids)
    own = {"max_context_len": 16, "max_new_tokens": 20, "ignore_eos_token": True}
    for fails_at, tokens in ((1, 0), (4, 3), (room + 2, room + 1)):
        calls.clear()
        with start("1.3.0", callbacks=callbacks, **own) as handle:
            assert handle.run(ids) == -1
            assert handle.events[-1].state == ERROR
            assert len(handle.tokens()) == tokens
        assert calls[-1] == {1: len(ids), 4: 1}.get(fails_at, 8)
    assert capfd.readouterr().err.count("the embedding callback failed with -5") == 3


@pytest.mark.parametrize("answer", [-1, 4096])
def test_a_tokenizer_callback_that_fails_fails_the_run(
    answer: int, start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    """Among them one that would have needed a larger buffer than it was given."""
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    tokenizer_type = ctypes.CFUNCTYPE(number, pointer, pointer, number, ctypes.POINTER(number), number)
    callbacks = {"tokenizer_callback": tokenizer_type(lambda *_: answer)}
    with start("1.3.0", callbacks=callbacks) as handle:
        assert handle.run(SUM) == -1
        assert [event.state for event in handle.events] == [ERROR]
    assert f"the tokenizer callback answered {answer} for a buffer of 2049" in capfd.readouterr().err


def test_callbacks_of_the_newest_release(start: Start, tokenizer: Tokenizer) -> None:
    calls: list[str] = []
    number, pointer, size_type = ctypes.c_int32, ctypes.c_void_p, ctypes.c_uint64
    ids_pointer = ctypes.POINTER(number)
    tokenizer_type = ctypes.CFUNCTYPE(number, pointer, pointer, number, ids_pointer, number)
    embed_type = ctypes.CFUNCTYPE(number, pointer, ids_pointer, size_type, pointer, size_type)

    def tokenize(_: Any, text: int, length: int, ids: Any, most: int) -> int:
        calls.append("tokenize")
        found = tokenizer.encode(ctypes.string_at(text, length).decode()).ids
        for index, id in enumerate(found):
            ids[index] = id
        return len(found)

    def embed(_: Any, ids: Any, count: int, out: int, size: int) -> int:
        calls.append("embed")
        ctypes.memset(out, 0, size)
        return 0

    with start("1.3.0") as handle:
        expected = handle.ask(SUM)
    with start("1.3.0", callbacks={"tokenizer_callback": tokenizer_type(tokenize)}) as handle:
        assert handle.ask(SUM) == expected
        assert calls == ["tokenize"]
    with start("1.3.0", callbacks={"embed_callback": embed_type(embed)}, max_new_tokens=4) as handle:
        assert handle.ask(SUM) != expected[:4]
        assert "embed" in calls
