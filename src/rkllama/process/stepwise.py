"""Answers drawn here, token by token, from the runtime's logits: what its own generation cannot do.

That is grammars, logprobs, min-p, biases, seeds, and before 1.3.0 any sampling of a request's own. Each step
is a run of one token in the logits mode (from 1.2.0), behind the KV cache of the one before; so the cache is
cleared first, and every run keeps it. The prompt is read in pieces, as a runtime in this mode computes
logits for every token of its input, and so that an abort is heard between them.

Could not be tried without the hardware: what a run of one token costs there beyond the token itself.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from exo.chat import TokenLogprob
from exo.errors import BadRequest, ContextLengthExceeded, EngineFailed
from exo.generation.form import Form
from exo.generation.sampler import Logits, Sampler, logprobs
from exo.generation.vocabulary import Vocabulary
from rkllama.vendor.abi import Release
from rkllama.vendor.asks import Ask, Event, Finished, Floats, Perf, Stepwise, Token, Tokens
from rkllama.vendor.runtime import Runtime

# Tokens of the prompt per run: over 150 000 words, 40 MB of logits.
_PIECE = 64


def answer(
    runtime: Runtime,
    ask: Stepwise,
    vocabulary: Vocabulary,
    on_event: Callable[[Event], None],
    aborted: Callable[[], bool],
) -> Finished:
    """Says a `Token` for each token, until an end token, the end of the grammar, `max_tokens`, a full
    context, or `aborted()`, which is asked between runs; `Runtime.abort` ends the one under way.

    Raises `BadRequest` for what the release, the vocabulary or llguidance cannot do,
    `ContextLengthExceeded` for a prompt that leaves no room, `EngineFailed` for output that is corrupt, and
    what `Runtime.run` raises. Whatever happens, the runtime is idle afterwards.
    """
    if runtime.release < Release.V1_2_0:
        raise BadRequest(
            f"The installed NPU runtime ({runtime.release}) has no logits mode, which JSON schemas, "
            f"grammars, logprobs and sampling by request need; it came with {Release.V1_2_0}."
        )
    prompt = vocabulary.encode(ask.prompt)
    if not prompt:
        raise BadRequest("the prompt is empty")
    if len(prompt) >= runtime.max_context_len:
        raise ContextLengthExceeded(
            f"the prompt is {len(prompt)} tokens long and the context of the model holds "
            f"{runtime.max_context_len}"
        )
    if ask.sampling.max_tokens is not None and ask.sampling.max_tokens < 1:
        raise BadRequest("An answer has at least one token.", param="max_tokens")
    form = Form(ask.form, vocabulary) if ask.form is not None else None
    sampler = Sampler(ask.sampling, vocabulary=vocabulary.size, prompt=prompt)
    return _Answer(runtime, vocabulary, aborted).draw(ask, prompt, sampler, form, on_event)


class _Answer:
    """One answer under way."""

    def __init__(self, runtime: Runtime, vocabulary: Vocabulary, aborted: Callable[[], bool]) -> None:
        self._runtime, self._vocabulary, self._aborted = runtime, vocabulary, aborted
        self._held = 0  # tokens in the KV cache
        self._memory_mb = 0.0

    def draw(
        self,
        ask: Stepwise,
        prompt: Sequence[int],
        sampler: Sampler,
        form: Form | None,
        on_event: Callable[[Event], None],
    ) -> Finished:
        began = time.monotonic()
        self._runtime.clear_kv_cache()
        logits = self._read(prompt)
        prefilled = time.monotonic()
        drawn, cut = 0, False
        shown = self._vocabulary.shown(ask.tags)
        while logits is not None:
            token = sampler.draw(logits, form.allowed() if form else None)
            if token in self._vocabulary.ends:
                break
            drawn += 1
            odds = None if ask.logprobs is None else self._odds(logits, token, ask.logprobs)
            on_event(Token(self._vocabulary.bytes_of(token, shown), token, logprobs=odds))
            if form and form.completed_by(token):
                break
            # The last place stays free: whether a runtime would fill it could not be tried.
            if cut := drawn == ask.sampling.max_tokens or self._held + 2 > self._runtime.max_context_len:
                break
            logits = self._step((token,))
        perf = Perf(
            prefill_tokens=min(self._held, len(prompt)),
            prefill_seconds=prefilled - began,
            generate_tokens=drawn,
            generate_seconds=time.monotonic() - prefilled,
            memory_mb=self._memory_mb,
        )
        return Finished(perf, aborted=logits is None, cut=cut, context_tokens=self._held)

    def _read(self, prompt: Sequence[int]) -> Logits | None:
        logits = None
        for at in range(0, len(prompt), _PIECE):
            if (logits := self._step(prompt[at : at + _PIECE])) is None:
                return None
        return logits

    def _step(self, tokens: Sequence[int]) -> Logits | None:
        """The logits of what follows `tokens`, of shape (vocabulary,); None when aborted."""
        if self._aborted():
            return None
        heard: list[Floats] = []

        def hear(event: Event) -> None:
            if isinstance(event, Floats):
                heard.append(event)

        run = Ask(inputs=(Tokens(tuple(tokens)),), mode="logits", keep_history=True)
        finished = self._runtime.run(run, hear)
        if finished.aborted or self._aborted():
            return None
        if finished.perf:
            self._memory_mb = finished.perf.memory_mb
        self._held += len(tokens)
        if not heard:
            raise EngineFailed("the NPU runtime gave no logits, though it says that it has computed them")
        return self._of_vocabulary(np.frombuffer(heard[-1].values, np.float32))

    def _of_vocabulary(self, row: Logits) -> Logits:
        """`row` without what pads it; what it lacks cannot be drawn."""
        size = self._vocabulary.size
        if (likeliest := int(row.argmax())) >= size:
            raise EngineFailed(
                f"The model says token {likeliest}, but its vocabulary has only {size}: its output is "
                "corrupt. The library may be another release than it was taken for (set RKLLM_RELEASE), the "
                "file made by another toolkit version than the runtime's, or the NPU may overflow on this "
                "file, which release 1.3.0 fixed for some; or this tokenizer.json is another model's."
            )
        if row.size >= size:
            return row[:size]
        missing = np.full(size - row.size, -np.inf, np.float32)
        return np.concatenate((row, missing))

    def _odds(self, logits: Logits, token: int, top: int) -> TokenLogprob:
        chosen, best = logprobs(logits, token, top)
        alternative = self._vocabulary.alternative
        return TokenLogprob(alternative(token, chosen), tuple(alternative(*each) for each in best))
