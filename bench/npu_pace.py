"""How much of the vendor's decode speed a client sees: of the NPU server, and of a node in front of it."""

from bench import report
from bench.client import Connection, read_streams
from bench.npu import TOKEN_MARK
from bench.npu_board import SUBJECT, Board, ask
from bench.npu_direct import Run
from bench.report import Figure, Report, Table, median
from bench.server import NodeProcess

_PACE = "rk3588:Qwen2.5-1.5B"
_QUESTION = "Write a Python function to check if a number is prime."
_TOKENS = 64
_ROUNDS = 3
_WANTED = 0.99

_ALONE, _SERVER, _NODE = "the runtime alone", "`rkllama`", "`exo` in front of `rkllama`"


def measure() -> Report:
    speeds: dict[str, list[float]] = {_ALONE: [], _SERVER: [], _NODE: []}
    with (
        Board() as board,
        board.direct(STANDIN_PACE=_PACE) as direct,
        board.server(STANDIN_PACE=_PACE) as server,
        NodeProcess(
            "--inference-engine",
            "rkllm",
            environment={"RKLLM_SERVER_HOST": "127.0.0.1", "RKLLM_SERVER_PORT": str(server.port)},
        ) as node,
    ):
        connections = {_SERVER: server.connect(), _NODE: node.connect()}
        for _ in range(_ROUNDS):
            alone = direct.run(board.prompt(_QUESTION), _TOKENS)
            speeds[_ALONE].append(alone.per_second)
            for name, connection in connections.items():
                speeds[name].append(_speed(connection, alone))
    ratios = {
        name: [speed / base for speed, base in zip(seen, speeds[_ALONE], strict=True)]
        for name, seen in speeds.items()
    }
    return Report(
        name="The NPU's speed as a client sees it",
        method=(
            f"{SUBJECT} It keeps the pace that the vendor gives for {_PACE.replace(':', ' and ')}. Answers "
            f"of {_TOKENS} tokens, streamed, each token an event of its own; from the first token to the "
            f"last by the client's clock, alone by that of the runtime's callback. The ways take turns, "
            f"{_ROUNDS} rounds; the ratio is the median of those within a round."
        ),
        tables=(
            Table(
                ("tokens/s", "median", "worst", "÷ alone", "worst"),
                tuple(
                    (name, median(seen), min(seen), median(ratios[name]), min(ratios[name]))
                    for name, seen in speeds.items()
                ),
            ),
        ),
        figures=tuple(
            Figure(f"vendor's decode speed through {name}", median(ratios[name]), _WANTED, "", "at least")
            for name in (_SERVER, _NODE)
        ),
    )


def _speed(connection: Connection, alone: Run) -> float:
    request = ask(_QUESTION, _TOKENS, stream=True)
    stream = read_streams([connection], [request], TOKEN_MARK)[0]
    if not stream.marks == alone.tokens == _TOKENS or stream.first == stream.last:
        raise RuntimeError(f"{_TOKENS} tokens were to come one by one as in {alone}, and {stream} came")
    return stream.per_second


if __name__ == "__main__":
    report.main(measure, __doc__)
