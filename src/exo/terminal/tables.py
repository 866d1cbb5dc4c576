"""What the panel's sections say: columns, and rows of text with a style. Pure."""

import time
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from exo.cards import ModelCard
from exo.nodes import Cluster, Node, Residence
from exo.terminal.layout import Column
from exo.terminal.snapshot import Download, Line, Request, Snapshot
from exo.terminal.words import rate, short, size, span

Cell: TypeAlias = tuple[str, str]
"""Text, which may be a stranger's, and a style by rich's name for it: of the 16 colours that a terminal lets
its owner choose."""

Row: TypeAlias = tuple[Cell, ...]

_QUIET, _GOOD, _SLOW, _BAD = "dim", "green", "yellow", "red"


class Table(msgspec.Struct, frozen=True):
    """One section: a row for each thing. Where it is `counted`, its name says how many there are."""

    columns: tuple[Column, ...]
    rows: Sequence[Row]
    counted: bool = True

    def head(self, shown: int) -> Column:
        """The first column, named for the section, of which so many rows are shown."""
        first, all = self.columns[0], len(self.rows)
        if not self.counted or all < 2:
            return first
        count = f"{all}" if shown == all else f"{shown} of {all}"
        return msgspec.structs.replace(first, head=f"{first.head} {count}")


def nodes(cluster: Cluster) -> Table:
    """This node first, marked with *. The speed is the mean of answers of the model used last."""
    peers = sorted(cluster.peers, key=lambda node: node.id)
    return Table(
        (
            Column("NODES", 0, 14, 32),
            Column("CHIP", 6, 6, 24),
            Column("IN MEMORY", 2, 12, 60),
            Column("RUN", 1, right=True),
            Column("WAIT", 1, right=True),
            Column("TOK/S", 3, right=True),
            Column("TEMP", 4, right=True),
            Column("NPU", 4, right=True),
            Column("FREE", 5, right=True),
        ),
        [_node(node, node is cluster.me, cluster.me.version) for node in (cluster.me, *peers)],
    )


def _node(node: Node, ours: bool, version: str) -> Row:
    name = f"{'*' if ours else ' '} {node.id}"
    if node.leaving:
        name += " (leaving)"
    elif node.version != version:
        name += f" ({node.version})"
    device = node.device
    latest = [each.model for each in sorted(node.loaded, key=lambda each: -each.used)]
    speeds = {speed.model: speed.decode for speed in node.speeds}
    decode = next((speeds[model] for model in latest if speeds.get(model)), 0.0)
    temperature, load = device.temperature, device.npu_load
    return (
        (name, _SLOW if node.leaving else "bold" if ours else ""),
        (device.chip or f"{device.cores} CPU cores", ""),
        (_in_memory(node), "") if node.loaded else ("none", _QUIET),
        _count(sum(each.running for each in node.loaded), _GOOD),
        _count(_waiting(node), _SLOW),
        (rate(decode) if decode else "", ""),
        ("" if temperature is None else f"{temperature:.0f}°C", ""),
        ("" if load is None else f"{load:.0%}", _GOOD if load else ""),
        (size(device.free) if device.free else "", _QUIET),
    )


def _in_memory(node: Node) -> str:
    return ", ".join(r.model if r.state == "ready" else f"{r.model} ({r.state})" for r in node.loaded)


def _waiting(node: Node) -> int:
    # A server's model stands in a queue of its own, which `waiting` does not count.
    return node.waiting + sum(each.waiting for each in node.loaded if not each.bytes)


def _count(number: int, style: str) -> Cell:
    return str(number), style if number else _QUIET


def models(snapshot: Snapshot) -> Table:
    """Those in some node's memory first. The speed is what comes just now, else the mean of one answer."""
    cluster = snapshot.cluster
    every = (cluster.me, *cluster.peers)
    cards = {card.id: card for node in reversed(every) for card in node.cards}
    on_disk, in_memory = {model: list[str]() for model in cards}, dict[str, dict[str, Residence]]()
    means = dict[str, float]()
    for node in every:
        for card in node.cards:
            on_disk[card.id].append(node.id)
        for residence in node.loaded:
            in_memory.setdefault(residence.model, {})[node.id] = residence
        for speed in node.speeds:
            means[speed.model] = max(speed.decode, means.get(speed.model, 0.0))
    rows = []
    for model, card in cards.items():
        at = in_memory.get(model, {})
        running, on = sum(each.running for each in at.values()), [*at] or on_disk[model]
        left = [each.expires_in for each in at.values() if each.expires_in is not None]
        now, mean = snapshot.rates.get(model, 0.0), means.get(model, 0.0)
        row = (
            (model, "bold" if at else ""),
            (size(card.bytes) if card.bytes else "", ""),
            _state(card, [*at.values()]),
            (f"leaves in {span(min(left))}" if left and len(left) == len(at) else "", _QUIET),
            ((on[0] if len(on) == 1 else f"{len(on)} nodes") if cluster.peers else "", ""),
            _count(running, _GOOD),
            _count(sum(each.waiting for each in at.values()), _SLOW),
            (rate(now), _GOOD) if now else (rate(mean) if mean else "", _QUIET),
        )
        rows.append(((not running, not at, model), row))
    return Table(
        (
            Column("MODELS", 0, 16, 60),
            Column("SIZE", 3, right=True),
            Column("STATE", 1, 9),
            Column("", 5, 12),
            Column("ON", 4, 7, 28),
            Column("RUN", 2, right=True),
            Column("WAIT", 2, right=True),
            Column("TOK/S", 1, right=True),
        ),
        [row for _, row in sorted(rows, key=lambda row: row[0])],
    )


def _state(card: ModelCard, at: Sequence[Residence]) -> Cell:
    if any(each.running for each in at):
        return "answering", _GOOD
    if not at:
        # Of another server's model it is not known whether it is in its memory.
        return "elsewhere" if card.format in ("rkllm", "remote") else "on disk", _QUIET
    return ("in memory", "") if any(each.state == "ready" for each in at) else (at[0].state, _SLOW)


def requests(snapshot: Snapshot, room: int) -> Table:
    """The latest `room` of them, the last one first."""
    some_elsewhere = bool(snapshot.cluster.peers)
    return Table(
        (
            Column("REQUESTS", 0, 8),
            Column("MODEL", 0, 12, 48),
            Column("NODE", 5, 8, 28),
            Column("STATUS", 1, 7, 32),
            Column("TOKENS", 2, right=True),
            Column("FIRST", 4, right=True),
            Column("TOOK", 3, right=True),
            Column("TOK/S", 2, right=True),
        ),
        [_request(each, some_elsewhere) for each in snapshot.requests[:room]],
        counted=False,
    )


def _request(request: Request, with_node: bool) -> Row:
    if request.hung_up:
        status = ("hung up", _SLOW)
    elif request.failed:
        status = (request.error or f"HTTP {request.status}", _BAD)
    else:
        status = ("ok", _GOOD)
    return (
        (_clock(request.at), _QUIET),
        (request.model or "-", ""),
        ((request.node or "-") if with_node else "", ""),
        status,
        (str(request.tokens) if request.tokens else "-", ""),
        ("-" if request.ttft is None else short(request.ttft), ""),
        (short(request.seconds), ""),
        (rate(request.rate) if request.rate else "-", ""),
    )


def downloads(each: Sequence[Download], full: str, empty: str, bar: int) -> Table:
    """With a bar of `bar` columns, in these glyphs."""
    return Table(
        (
            Column("DOWNLOADS", 0, 16, 48),
            Column("", 2, bar),
            Column("", 0, right=True),
            Column("", 4, 12, 60),
            Column("", 1, right=True),
            Column("", 1, right=True),
        ),
        [_download(download, full, empty, bar) for download in each],
    )


def _download(download: Download, full: str, empty: str, bar: int) -> Row:
    filled = round(download.share * bar)
    drawn = full * filled + empty * (bar - filled)
    if download.failure:
        return (
            (download.model, ""),
            (drawn, _QUIET),
            (f"{download.share:.0%}", ""),
            (f"failed: {download.failure}", _BAD),
            ("failed", _BAD),
            ("", ""),
        )
    left = (download.total - download.done) / download.rate if download.rate else None
    return (
        (download.model, ""),
        (drawn, "cyan"),
        (f"{download.share:.0%}", ""),
        (f"{size(download.done)} of {size(download.total)}" if download.total else "", _QUIET),
        (f"{size(download.rate)}/s" if download.rate else "stalled", "" if download.rate else _SLOW),
        (f"{span(left)} left" if left is not None else "", ""),
    )


def log(lines: Sequence[Line], room: int) -> Table:
    """The last entries, in order; up to half of the `room` is for the last warnings and errors, however long
    ago they came."""
    grave = [index for index, line in enumerate(lines) if line.grave][-(room // 2) :] if room > 1 else []
    others = [index for index in range(len(lines)) if index not in grave]
    shown = sorted((*grave, *others[max(0, len(others) - room + len(grave)) :]))
    return Table(
        (Column("LOG", 0, 8), Column("", 0, 20, 1000)),
        [_line(lines[index]) for index in shown],
        counted=False,
    )


def _line(line: Line) -> Row:
    style = _BAD if line.level >= 40 else _SLOW if line.grave else ""
    return (_clock(line.at), style or _QUIET), (line.text, style)


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
