"""One model in the vendor's runtime, as plain Python: values in, values out, failures raised.

The runtime is a C library with a callback. What makes it awkward, and what is done about it here:

- A handle does one thing at a time, and entering it twice corrupts it. `Runtime` keeps its own account of
  what it is doing (`rkllm_is_running` means different things in different releases) and raises before the
  library is called. Only `abort` may be called while something else is going on.
- `rkllm_run` blocks and calls back from inside, on a thread of the runtime's choosing. Everything is copied
  there, since the pointers die with the next call. An exception of ours must not travel through C: it aborts
  the run and is raised again from `run`.
- `rkllm_abort` is documented for other threads than the one in the callback, so from within a callback
  another thread sends it. What it does when the run is about to begin or has just ended is not documented:
  one sent before the first token is repeated at it, and none is sent once the run has said that it is over.
- Before 1.3.0 a run cannot be told how many tokens to make, so it is aborted after them.

A failed `rkllm_init` may leave the process unusable or end it, so each model belongs in a process of its own.

Could not be tried without the hardware: what `rkllm_run` returns when aborted (here: an abort asked for
explains any outcome); whether an abort during prefill takes effect before it ends; how n_batch > 1, logits
and last hidden states are called back (here, as the vendor's headers and demos have it: an array of n_batch
results, and pointers in any state but the final ones); how many tokens a full context is reported to hold
(the stand-in says all of it; one fewer is taken for full, too, as an answer's last token need not be stored).
"""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from exo.errors import BadRequest, EngineFailed, ModelNotFound, NotFound, NotReady
from rkllama.vendor.abi import Release
from rkllama.vendor.arguments import Arguments, text
from rkllama.vendor.asks import Ask, Event, Finished, Floats, Options, Perf, SlotDone, Token, Waiting
from rkllama.vendor.library import Library


class _Run:
    """What is known of the run under way."""

    def __init__(self, ask: Ask, on_event: Callable[[Event], None], max_tokens: int | None) -> None:
        self.ask, self.on_event, self.max_tokens = ask, on_event, max_tokens
        self.tokens = [0] * len(ask.inputs)
        self.aborted = False  # somebody wants no more of it
        self.full = False  # it has made all the tokens it may, and is told to stop
        self.heard = False  # the runtime has called back
        self.unheeded = False  # an abort may have come too early and is to be repeated
        self.over = False  # the runtime has said so, and is about to return
        self.failed = False
        self.perf: Perf | None = None
        self.exception: BaseException | None = None
        self.calling: int | None = None  # the thread that is in the callback now
        self.done = [False] * len(ask.inputs)


class Runtime:
    """A loaded model. Every method but `abort` blocks, and raises NotReady while another is at work.

    All methods may be called from any thread. What goes wrong in the runtime is EngineFailed; its log says
    why (`rkllama.vendor.diagnosis.explain`).
    """

    def __init__(self, library: Library, options: Options) -> None:
        """Load the model: seconds to a minute. After a failure this process should end."""
        self._library, self._abi = library, library.abi
        self.release: Release = library.release
        self._gate = threading.Lock()  # held to look at or change the state below, and to send an abort
        self._busy = False
        self._run: _Run | None = None
        self._prompt_cache: Path | None = None
        self._states = {number: name for name, number in self._abi.enums["LLMCallState"].items()}
        # The library calls this for as long as the handle lives, so this object keeps it.
        self._receiver = self._abi.callbacks["LLMResultCallback"](self._receive)
        self._arguments = Arguments(library, options)
        self._handle = self._init(options.model)

    @property
    def samples_per_run(self) -> bool:
        """Whether a run may bring its own sampling."""
        return self.release >= Release.V1_3

    @property
    def n_batch(self) -> int:
        """How many inputs every run has."""
        return self._arguments.n_batch

    @property
    def max_context_len(self) -> int:
        """The context asked for at load; the model file's own limit may be smaller."""
        return int(self._arguments.param.max_context_len)

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    # Running

    def run(self, ask: Ask, on_event: Callable[[Event], None]) -> Finished:
        """Answer `ask`, calling `on_event` for each event as it comes, on whichever thread the runtime uses.

        Returns when the runtime is idle again. An exception from `on_event` aborts the run and is raised
        here. No event follows an abort or an exception, but for one that is just being handed over.
        EngineFailed if the runtime gave up; ContextLengthExceeded, BadRequest, NotReady before it was asked.
        """
        with self._alone():
            inputs = self._arguments.inputs(ask)
            infer = self._arguments.infer(ask)
            run = _Run(ask, on_event, self._arguments.max_tokens(ask))
            with self._gate:
                self._run = run
            try:
                code = self._library.cdll.rkllm_run(self._handle, inputs, ctypes.byref(infer), None)
            finally:
                with self._gate:  # an abort on its way is over now, and none is sent from here on
                    self._run = None
            if run.exception is not None:
                raise run.exception
            if not (run.aborted or run.full) and (code != 0 or run.failed):
                told = "reported an error" if run.failed else f"returned {code}"
                raise EngineFailed(f"The NPU runtime could not finish the answer: rkllm_run {told}.")
            return self._finished(run)

    def abort(self) -> bool:
        """Tell the run under way to stop, and do not wait for it to; False if there is none, or if it has
        not begun as far as the runtime is concerned, and would not hear of it before its first token."""
        run = self._run
        if run is not None and run.calling == threading.get_ident():
            run.aborted = True
            self._stop_from_elsewhere(run)
            return True
        return self._stop(run, abort=True)

    def _stop(self, run: _Run | None, *, abort: bool = False) -> bool:
        with self._gate:
            if run is None or self._run is not run or run.over:
                return False
            run.aborted |= abort
            code = self._library.cdll.rkllm_abort(self._handle)
            if code != 0 or not run.heard:
                run.unheeded = True
            return bool(code == 0)

    def _stop_from_elsewhere(self, run: _Run) -> None:
        threading.Thread(target=self._stop, args=(run,), name="rkllm-abort", daemon=True).start()

    def _receive(self, results: Any, userdata: int | None, state: int) -> int:
        """The callback. Returns 0, "go on", whatever happens (releases up to 1.2.0 ignore it).

        Which of the two `userdata` 1.3.0 passes is not documented, so the run is known by the handle, which
        has one at a time.
        """
        run = self._run
        if run is None:
            return 0
        run.calling = threading.get_ident()
        try:
            self._read(run, results, self._states.get(state, ""))
        except BaseException as exception:
            run.exception = exception
            self._stop_from_elsewhere(run)
        finally:
            run.calling = None
        return 0

    def _read(self, run: _Run, results: Any, state: str) -> None:
        if state in ("RKLLM_RUN_FINISH", "RKLLM_RUN_ERROR"):
            run.over, run.failed = True, state == "RKLLM_RUN_ERROR"
            if results and not run.failed:
                run.perf = self._perf(results[0])
            return
        run.heard = True
        if run.unheeded:
            run.unheeded = False
            self._stop_from_elsewhere(run)
        if not results:
            return
        for slot in range(len(run.ask.inputs)):
            if run.aborted or run.full or run.exception is not None:
                return
            event = self._event(run, results[slot], state, slot)
            if event is not None:
                run.on_event(event)
            if isinstance(event, Token | Waiting):
                run.tokens[slot] += 1
                if self._arguments.counts_tokens and run.tokens[slot] == run.max_tokens:
                    run.full = True
                    self._stop_from_elsewhere(run)

    def _event(self, run: _Run, result: Any, state: str, slot: int) -> Event | None:
        if run.ask.mode == "hidden":
            hidden = result.last_hidden_layer
            return _copied(hidden.hidden_states, hidden.num_tokens, hidden.embd_size, slot)
        if run.ask.mode == "logits":
            logits = result.logits
            # A row for each token of a long prompt would be hundreds of megabytes, and only one says what
            # comes next.
            before = logits.num_tokens - 1
            return _copied(logits.logits, logits.num_tokens, logits.vocab_size, slot, skip=before)
        if self._arguments.n_batch > 1 and result.token_id < 0:
            already, run.done[slot] = run.done[slot], True
            return None if already else SlotDone(slot)
        if state == "RKLLM_RUN_WAITING":
            return Waiting(result.token_id, slot)
        return Token(result.text or b"", result.token_id, slot)

    def _finished(self, run: _Run) -> Finished:
        """How a run that has ended well did so. A context that is nearly full when the model ends an answer
        by itself is taken for full: that cannot be told apart."""
        held, limit = self._context_tokens(), run.max_tokens
        cut = run.ask.mode == "generate" and not run.aborted
        at_limit = limit is not None and max(run.tokens) >= limit
        filled = held is not None and held >= self.max_context_len - 1
        return Finished(run.perf, run.aborted, cut and (at_limit or filled), held)

    def _context_tokens(self) -> int | None:
        """Tokens in the fullest slot's KV cache, for whoever holds the handle alone."""
        if self.release < Release.V1_2_1:
            return None
        sizes = (ctypes.c_int * self.n_batch)()
        code = self._library.cdll.rkllm_get_kv_cache_size(self._handle, sizes)
        # The answer is complete: a figure about it that cannot be had is no reason to fail it.
        return max(sizes) if code == 0 else None

    def _perf(self, result: Any) -> Perf | None:
        if self.release < Release.V1_2_1:
            return None
        perf = result.perf
        return Perf(
            prefill_tokens=perf.prefill_tokens,
            prefill_seconds=perf.prefill_time_ms / 1000,
            generate_tokens=perf.generate_tokens,
            generate_seconds=perf.generate_time_ms / 1000,
            memory_mb=perf.memory_usage_mb,
        )

    # Between runs

    def clear_kv_cache(self, *, keep_system_prompt: bool = False) -> None:
        """Forget the history. Part of it only can be cleared in a paused run, which is not offered here."""
        ranges = (None, None) if self.release >= Release.V1_2_1 else ()
        self._call("rkllm_clear_kv_cache", int(keep_system_prompt), *ranges)

    def kv_cache_size(self) -> tuple[int, ...]:
        """How many tokens the KV cache of each slot holds."""
        sizes = (ctypes.c_int * self._arguments.n_batch)()
        self._call("rkllm_get_kv_cache_size", sizes)
        return tuple(sizes)

    def set_chat_template(self, system: str, prefix: str, postfix: str) -> None:
        """Use this in place of the file's template; three empty texts leave prompts as they are."""
        texts = (text(system, "system"), text(prefix, "prefix"), text(postfix, "postfix"))
        self._call("rkllm_set_chat_template", *texts)

    def set_function_tools(self, system: str, tools_json: str, response_tag: str) -> None:
        """Announce functions to the model; results come back as a Prompt of role "tool"."""
        texts = (
            text(system, "system"),
            text(tools_json, "tools"),
            text(response_tag, "tool_response_tag"),
        )
        self._call("rkllm_set_function_tools", *texts)

    def load_prompt_cache(self, path: Path) -> None:
        """Use a file that `save_prompt_cache` wrote, in place of one loaded before."""
        if not path.is_file():
            raise NotFound(f"There is no prompt cache {path}.")
        if self._prompt_cache is not None:
            self.release_prompt_cache()
        self._call("rkllm_load_prompt_cache", text(str(path), "prompt_cache"))
        self._prompt_cache = path

    def release_prompt_cache(self) -> None:
        """Let go of the prompt cache loaded, if one is."""
        if self._prompt_cache is not None:
            self._call("rkllm_release_prompt_cache")
            self._prompt_cache = None

    def load_lora(self, path: Path, name: str, scale: float = 1.0) -> None:
        """Load an adapter that runs may then choose by `name`."""
        if not path.is_file():
            raise NotFound(f"There is no LoRA adapter {path}.")
        adapter = self._abi.structs["RKLLMLoraAdapter"](text(str(path), "lora"), text(name, "lora"), scale)
        self._call("rkllm_load_lora", ctypes.byref(adapter))

    def destroy(self) -> None:
        """Free the model and its NPU memory. May be called again."""
        with self._gate:
            if self._handle is None:
                return
        with self._alone():
            handle, self._handle = self._handle, None
            code = self._library.cdll.rkllm_destroy(handle)
        if code != 0:
            raise EngineFailed(f"The NPU runtime could not free the model: rkllm_destroy returned {code}.")

    # How it is done

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._gate:
            if self._handle is None:
                raise NotReady("The model has been unloaded.")
            if self._busy:
                raise NotReady("The NPU runtime is busy with this model, and does one thing at a time.")
            self._busy = True
        try:
            yield
        finally:
            with self._gate:
                self._busy = False

    def _call(self, name: str, *arguments: Any) -> None:
        if name not in self._abi.functions:
            raise BadRequest(f"The NPU runtime installed ({self.release}) has no {name}.")
        with self._alone():
            code = getattr(self._library.cdll, name)(self._handle, *arguments)
        if code != 0:
            raise EngineFailed(f"The NPU runtime refused: {name} returned {code}.")

    def _init(self, model: Path) -> ctypes.c_void_p | None:
        if not model.is_file():
            raise ModelNotFound(f"There is no model file {model}.")
        handle = ctypes.c_void_p()
        receiver = self._receiver
        if "RKLLMCallback" in self._abi.structs:
            self._callbacks = self._abi.structs["RKLLMCallback"](result_callback=receiver)
            receiver = ctypes.byref(self._callbacks)
        code = self._library.cdll.rkllm_init(
            ctypes.byref(handle), ctypes.byref(self._arguments.param), receiver
        )
        if code != 0 or not handle:
            raise EngineFailed(f"The NPU runtime could not load {model}: rkllm_init returned {code}.")
        return handle


def _copied(values: Any, rows: int, columns: int, slot: int, *, skip: int = 0) -> Floats | None:
    """`rows` of floats without the first `skip`; None where there are none."""
    if not values or rows <= 0 or columns <= 0:
        return None
    row = columns * ctypes.sizeof(ctypes.c_float)
    kept = rows - skip
    return Floats(
        ctypes.string_at(ctypes.addressof(values.contents) + skip * row, kept * row), kept, columns, slot
    )
