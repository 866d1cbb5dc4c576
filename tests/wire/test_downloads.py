"""The first exo's shapes of downloads."""

import json

import pytest

from exo.cards import Progress
from exo.errors import BadRequest, EngineFailed
from exo.wire import downloads as wire
from exo.wire import ollama


def test_a_download_has_the_keys_of_the_first_exo() -> None:
    files = [
        wire.file_progress("user/m", "a", 100, 0, 100, 2.0),
        wire.file_progress("user/m", "b", 60, 20, 100, 2.0),
        wire.file_progress("user/m", "c", 0, 0, 100, 2.0),
    ]
    shown = json.loads(wire.progress_answer("node", {"m": wire.repo_progress(files, "user/m", 2.0)}))
    one = shown["node"]
    assert one.pop("file_progress")["b"] == {
        "repo_id": "user/m",
        "repo_revision": "main",
        "file_path": "b",
        "downloaded": 60,
        "downloaded_this_session": 20,
        "total": 100,
        "speed": 10,
        "eta": 4.0,
        "status": "in_progress",
    }
    assert one == {
        "repo_id": "user/m",
        "repo_revision": "main",
        "completed_files": 1,
        "total_files": 3,
        "downloaded_bytes": 160,
        "downloaded_bytes_this_session": 20,
        "total_bytes": 300,
        "overall_speed": 10,
        "overall_eta": 14.0,
        "status": "in_progress",
        "model": "m",
    }
    assert [file.status for file in files] == ["complete", "in_progress", "not_started"]


def test_one_of_which_nothing_comes_has_no_infinite_end() -> None:
    assert wire.file_progress("r", "f", 1, 0, 2, 5.0).eta == 0
    assert wire.file_progress("r", "f", 1, 1, 2, 0.0).speed == 0


def test_further_downloads_are_under_the_node_and_the_model() -> None:
    one = wire.repo_progress([], "r", 1.0)
    failed = wire.repo_progress([], "r", 1.0, "the disk is full")
    shown = json.loads(wire.progress_answer("node", {"a": one, "b": failed}))
    assert list(shown) == ["node", "node b"]
    assert [each["model"] for each in shown.values()] == ["a", "b"]
    assert (shown["node b"]["status"], shown["node b"]["error"]) == ("failed", "the disk is full")
    assert "error" not in shown["node"]
    assert wire.progress_answer("node", {}) == b"{}"


@pytest.mark.parametrize("body", [b"", b"{}", b'{"model":""}', b'{"model":1}', b'{"model":"m","engine":"x"}'])
def test_a_download_takes_a_model_and_nothing_else(body: bytes) -> None:
    with pytest.raises(BadRequest):
        wire.decode_download(body)
    assert wire.decode_download(b'{"model":"user/m"}').model == "user/m"


def test_what_a_node_says_of_a_pull_is_read() -> None:
    step = Progress("model.gguf", 3, 10)
    assert wire.decode_line(ollama.progress_answer(step)) == step
    assert wire.decode_line(ollama.status_answer("success")) is None
    with pytest.raises(EngineFailed, match="the disk is full"):
        wire.decode_line(ollama.error_answer(EngineFailed("the disk is full")))
    with pytest.raises(EngineFailed, match="not understood"):
        wire.decode_line(b"<html>")
