"""The same for boards: the NPU server at the vendor's pace on each, and `exo` in front of it."""

import asyncio
import json
import sys
import time
from collections.abc import Sequence

from bench import report
from bench.cluster_load import Question, in_turn, measured, to_this_node
from bench.cluster_nodes import Machines, Nodes, free_ports
from bench.npu_board import MODEL, RELEASE, Board, ask
from bench.report import Figure, Report, Table, median

_PACE = "rk3588:Qwen2.5-1.5B"
_BOARDS = 4
_CLIENTS_EACH = 2
_TOKENS = 32
# Each has an answer of more than the tokens asked for.
_QUESTIONS = tuple(f"Count from {number} to {number + 25}." for number in (1, 3, 4, 6, 7, 9, 12))
_ROUNDS = 2
_WARM_UP, _WINDOW = 1.0, 4.0
_REST = 1.1
_WANTED = 0.97


def measure() -> Report:
    with Board() as board:
        questions = _questions(board)
        with Machines(_BOARDS) as machines:
            nodes = _boards(machines, board)
            alone, together = _take_turns(nodes, questions)
            where = machines.words
    linear = [rate / (_BOARDS * one) for rate, one in zip(together, alone, strict=True)]
    return Report(
        name="A cluster of boards",
        method=(
            f"{_BOARDS} boards, each {where}: `rkllama` over the stand-in runtime, release {RELEASE}, which "
            f"computes `exo-demo` at the pace the vendor gives for {_PACE.replace(':', ' and ')}, prefill "
            f"included, and `exo` in front of it. {_CLIENTS_EACH} clients for each board ask for answers of "
            f"{_TOKENS} tokens, and again as soon as they have one; its text must be the one that a board "
            "without a pace gives. Alone, they ask one board, which passes nothing on; together, all ask one "
            f"node. {_ROUNDS} rounds in which both take a turn, of {_WINDOW:g} s after {_WARM_UP:g} s of "
            "warm-up; the ratio is the median of those within a round."
        ),
        tables=(
            Table(
                ("tokens/s", "median", "worst", "÷ linear", "worst"),
                (
                    ("one board alone", median(alone), min(alone), None, None),
                    (f"{_BOARDS} boards", median(together), min(together), median(linear), min(linear)),
                ),
            ),
        ),
        figures=(Figure(f"{_BOARDS} boards, ÷ linear", median(linear), _WANTED, "", "at least"),),
    )


def _questions(board: Board) -> list[Question]:
    """With the texts of their answers."""
    with board.server() as server:
        connection = server.connect()
        answers = [json.loads(connection.ask(ask(question, _TOKENS))) for question in _QUESTIONS]
    texts = [str(answer["choices"][0]["message"]["content"]) for answer in answers]
    if any(answer["usage"]["completion_tokens"] != _TOKENS for answer in answers):
        raise RuntimeError(f"answers of {_TOKENS} tokens were to come, and others did: {texts}")
    streamed = [ask(question, _TOKENS, stream=True) for question in _QUESTIONS]
    return [Question(request, _TOKENS, text) for request, text in zip(streamed, texts, strict=True)]


def _boards(machines: Machines, board: Board) -> Nodes:
    """A cluster of boards that have all loaded the model."""
    library, models = board.library(RELEASE), board.model_file(RELEASE).parents[1]
    port = free_ports(1)[0]
    servers = [
        machines.process(
            number,
            *(sys.executable, "-m", "rkllama.main", "--target_platform", "rk3588"),
            *("--host", machines.address(number), "--port", str(port)),
            *("--models", str(models), "--preload", MODEL),
            environment={"RKLLM_LIB_PATH": str(library), "STANDIN_PACE": _PACE},
        )
        for number in range(_BOARDS)
    ]
    for server in servers:
        server.start()
    for server in servers:
        connection = server.connect(port)
        connection.ask(ask(_QUESTIONS[0], 1))
        connection.close()
    nodes = Nodes(machines)
    for number in range(_BOARDS):
        nodes.add(
            *("--inference-engine", "rkllm"),
            environment={"RKLLM_SERVER_HOST": machines.address(number), "RKLLM_SERVER_PORT": str(port)},
        )
    nodes.wait(MODEL, _BOARDS)
    return nodes


def _take_turns(nodes: Nodes, questions: Sequence[Question]) -> tuple[list[float], list[float]]:
    """Tokens per second of one board alone, and of all through one node."""
    alone: list[float] = []
    together: list[float] = []
    for turn in range(_ROUNDS):
        here = in_turn([to_this_node(question) for question in questions])
        targets = [nodes.targets[turn]] * _CLIENTS_EACH
        alone.append(asyncio.run(measured(targets, here, warm_up=_WARM_UP, seconds=_WINDOW)))
        time.sleep(_REST)
        targets = [nodes.targets[0]] * (_CLIENTS_EACH * _BOARDS)
        together.append(asyncio.run(measured(targets, in_turn(questions), warm_up=_WARM_UP, seconds=_WINDOW)))
        time.sleep(_REST)
    return alone, together


if __name__ == "__main__":
    report.main(measure, __doc__)
