"""Downloads from a hub on this machine, with everything that can go wrong on the way."""

import asyncio
import os
import random
import socket
from contextlib import aclosing
from pathlib import Path

import pytest
from huggingface_hub import constants

from exo.cards import Progress
from exo.errors import BadRequest, EngineFailed, ExoError, Forbidden, NotFound, NotReady
from exo.store import hub
from tests.store.mirror import COMMIT, Mirror

FILE = "model.rkllm"
CONTENT = random.Random(1).randbytes(3_500_000)
MB = 1 << 20


@pytest.fixture
def mirror(mirror: Mirror) -> Mirror:
    """With one file."""
    mirror.files[FILE] = CONTENT
    return mirror


async def fetched(mirror: Mirror, into: Path, file: str = FILE, token: str | None = None) -> list[Progress]:
    steps = hub.fetch(mirror.repository, file, into, endpoint=mirror.url, token=token)
    async with aclosing(steps):
        return [step async for step in steps]


async def begun(mirror: Mirror, into: Path, *, file: str = FILE) -> None:
    """Downloads the first megabyte, or a little more, and gives up."""
    async with aclosing(hub.fetch(mirror.repository, file, into, endpoint=mirror.url, token=None)) as steps:
        async for step in steps:
            if step.done >= MB:
                return


def partials(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == ".partial")


def read(path: Path) -> bytes:
    assert not path.is_symlink()
    return path.read_bytes()


@pytest.mark.parametrize("large", [True, False])
async def test_a_file_comes_whole_and_alone(mirror: Mirror, tmp_path: Path, large: bool) -> None:
    mirror.large = large
    steps = await fetched(mirror, tmp_path / "models" / "Tiny")
    assert steps[0] == Progress(FILE, 0, len(CONTENT))
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert len(steps) > 4
    assert steps[-1] == Progress(FILE, len(CONTENT), len(CONTENT))
    assert read(tmp_path / "models" / "Tiny" / FILE) == CONTENT
    assert os.listdir(tmp_path / "models" / "Tiny") == [FILE]


async def test_a_file_of_a_folder_there_is_a_file_here(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["q8 0/tiny model.rkllm"] = b"x"
    await fetched(mirror, tmp_path, "q8 0/tiny model.rkllm")
    assert read(tmp_path / "tiny model.rkllm") == b"x"


@pytest.mark.parametrize("large", [True, False])
async def test_an_empty_file_is_a_file(mirror: Mirror, tmp_path: Path, large: bool) -> None:
    mirror.large = large
    mirror.files["empty"] = b""
    assert (await fetched(mirror, tmp_path, "empty"))[-1] == Progress("empty", 0, 0)
    assert read(tmp_path / "empty") == b""


async def test_the_hub_is_told_nothing_but_what_is_wanted(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AI_AGENT", "someone")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    await fetched(mirror, tmp_path)
    path = f"/{mirror.repository}/resolve"
    assert [(seen.method, seen.path) for seen in mirror.seen] == [
        ("HEAD", f"{path}/main/{FILE}"),
        ("GET", f"{path}/{COMMIT}/{FILE}"),
        ("GET", f"/of/{FILE}"),
    ]
    assert {seen.agent for seen in mirror.seen} == {"exo-rkllama"}
    assert constants.HF_HUB_DISABLE_TELEMETRY, "it looks for what runs it, and asks the hub how to"


async def test_the_token_goes_to_the_hub_and_nowhere_else(mirror: Mirror, tmp_path: Path) -> None:
    mirror.token = "secret"
    await fetched(mirror, tmp_path, token="secret")
    assert [seen.token for seen in mirror.seen] == ["secret", "secret", ""]


async def test_a_connection_that_is_lost_is_taken_up_again(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cuts = [100_000, 2_000_000]
    await fetched(mirror, tmp_path)
    assert read(tmp_path / FILE) == CONTENT
    assert [seen.range for seen in mirror.downloads()] == ["bytes=0-", "bytes=100000-", "bytes=2100000-"]


async def test_a_hub_that_knows_no_ranges_is_read_from_the_start(mirror: Mirror, tmp_path: Path) -> None:
    mirror.takes_ranges = False
    mirror.cuts = [1_500_000, 1_600_000]
    await fetched(mirror, tmp_path)
    assert read(tmp_path / FILE) == CONTENT


async def test_a_connection_that_is_always_lost_is_given_up(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cuts = [10_000, *[0] * 50]
    with pytest.raises(NotReady, match=f"cannot reach .*{FILE}"):
        await fetched(mirror, tmp_path)
    assert len(mirror.downloads()) == 6
    assert not (tmp_path / FILE).exists()


async def test_what_has_come_is_kept_for_the_next_time(mirror: Mirror, tmp_path: Path) -> None:
    await begun(mirror, tmp_path)
    (partial,) = partials(tmp_path)
    kept = len(read(partial))
    assert kept >= MB
    assert not (tmp_path / FILE).exists()
    steps = await fetched(mirror, tmp_path)
    assert steps[0] == Progress(FILE, kept, len(CONTENT))
    assert mirror.downloads()[-1].range == f"bytes={kept}-"
    assert read(tmp_path / FILE) == CONTENT
    assert os.listdir(tmp_path) == [FILE]


async def test_a_download_that_only_lacked_its_name_asks_for_nothing(mirror: Mirror, tmp_path: Path) -> None:
    await begun(mirror, tmp_path)
    (partial,) = partials(tmp_path)
    partial.write_bytes(CONTENT)
    before = len(mirror.downloads())
    await fetched(mirror, tmp_path)
    assert len(mirror.downloads()) == before
    assert read(tmp_path / FILE) == CONTENT


async def test_cancelling_stops_it(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files[FILE] = CONTENT * 20
    come = asyncio.Event()

    async def download() -> None:
        steps = hub.fetch(mirror.repository, FILE, tmp_path, endpoint=mirror.url, token=None)
        async with aclosing(steps):
            async for step in steps:
                if step.done >= MB:
                    come.set()

    task = asyncio.create_task(download())
    await come.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (partial,) = partials(tmp_path)
    kept = read(partial)
    assert MB <= len(kept) < len(CONTENT) * 20
    assert (CONTENT * 20).startswith(kept)
    await fetched(mirror, tmp_path)
    assert read(tmp_path / FILE) == CONTENT * 20


async def test_a_file_that_has_changed_meanwhile_is_not_mixed(mirror: Mirror, tmp_path: Path) -> None:
    await begun(mirror, tmp_path)
    mirror.files[FILE] = CONTENT[::-1]
    await fetched(mirror, tmp_path)
    assert read(tmp_path / FILE) == CONTENT[::-1]
    assert os.listdir(tmp_path) == [FILE]


@pytest.mark.parametrize("large", [True, False])
async def test_what_is_not_what_it_should_be_is_thrown_away(
    mirror: Mirror, tmp_path: Path, large: bool
) -> None:
    mirror.large = large
    mirror.tag = ("0" * 64)[: 64 if large else 40]
    (tmp_path / FILE).write_bytes(b"an older one")
    with pytest.raises(EngineFailed, match="checksum"):
        await fetched(mirror, tmp_path)
    assert read(tmp_path / FILE) == b"an older one"
    assert os.listdir(tmp_path) == [FILE]


async def test_a_hub_without_checksums_is_trusted_with_the_size(mirror: Mirror, tmp_path: Path) -> None:
    mirror.tag = 'odd/../"tag'
    await fetched(mirror, tmp_path)
    assert read(tmp_path / FILE) == CONTENT
    mirror.size = len(CONTENT) - 1
    with pytest.raises(EngineFailed, match="size"):
        await fetched(mirror, tmp_path)


async def test_a_file_that_is_there_is_not_downloaded_again(mirror: Mirror, tmp_path: Path) -> None:
    await fetched(mirror, tmp_path)
    before = len(mirror.downloads())
    assert await fetched(mirror, tmp_path) == [Progress(FILE, len(CONTENT), len(CONTENT))]
    assert len(mirror.downloads()) == before
    mirror.files[FILE] = b"a newer one"
    await fetched(mirror, tmp_path)
    assert read(tmp_path / FILE) == b"a newer one"


async def test_two_downloads_of_a_file_keep_out_of_each_others_way(mirror: Mirror, tmp_path: Path) -> None:
    steps = hub.fetch(mirror.repository, FILE, tmp_path, endpoint=mirror.url, token=None)
    async with aclosing(steps):
        await anext(steps)
        with pytest.raises(NotReady, match="being downloaded already"):
            await fetched(mirror, tmp_path)
        assert [step async for step in steps][-1].done == len(CONTENT)
    assert read(tmp_path / FILE) == CONTENT


async def test_a_file_that_is_not_there_is_told_from_those_that_are(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"'modle.rkllm' is not in user/tiny on .*; there is model.rkllm"):
        await fetched(mirror, tmp_path, "modle.rkllm")
    assert os.listdir(tmp_path) == []


async def test_a_repository_that_is_not_there_is_named_with_the_file(mirror: Mirror, tmp_path: Path) -> None:
    mirror.repository = "user/other"
    with pytest.raises(NotFound, match=rf"no repository user/tiny on .*'{FILE}'.*HF_TOKEN"):
        async for _ in hub.fetch("user/tiny", FILE, tmp_path, endpoint=mirror.url, token=None):
            pass


@pytest.mark.parametrize(
    ("refusal", "kind", "says"),
    [
        ((401, "GatedRepo"), Forbidden, "is gated: accept its terms .* HF_TOKEN"),
        ((403, "GatedRepo"), Forbidden, "is gated: accept its terms .* HF_TOKEN"),
        ((401, "RepoNotFound"), NotFound, "if it is private, set HF_TOKEN"),
        ((401, ""), Forbidden, "HF_TOKEN"),
        ((403, ""), Forbidden, "HF_TOKEN"),
        ((404, ""), NotFound, f"no user/tiny/{FILE}"),
        ((500, ""), EngineFailed, "answered with status 500"),
    ],
)
async def test_refusals_say_what_to_do(
    mirror: Mirror, tmp_path: Path, refusal: tuple[int, str], kind: type[ExoError], says: str
) -> None:
    mirror.refuses = refusal
    with pytest.raises(kind, match=says):
        await fetched(mirror, tmp_path)
    assert os.listdir(tmp_path) == []


async def test_without_a_network_it_says_whom_it_cannot_reach(mirror: Mirror, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        mirror.url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(NotReady, match=f"cannot reach {mirror.url}"):
        await fetched(mirror, tmp_path)


async def test_offline_it_does_not_even_try(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NotReady, match="HF_HUB_OFFLINE is set"):
        await fetched(mirror, tmp_path)
    assert mirror.seen == []


async def test_a_file_that_does_not_fit_on_the_disk_is_not_begun(mirror: Mirror, tmp_path: Path) -> None:
    mirror.size = 10**17
    with pytest.raises(NotReady, match=r"100,000,000,000 MB are still to come .* make room"):
        await fetched(mirror, tmp_path)
    assert mirror.downloads() == []


async def test_a_folder_that_cannot_be_written_is_named(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotReady, match=f"cannot write to {tmp_path}/file/models: Not a directory"):
        await fetched(mirror, tmp_path / "file" / "models")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "model.rkllm",
        "user/tiny",
        "user/tiny/",
        "/user/tiny/model",
        "user//model",
        "../tiny/model",
        "user/../model",
        "user/tiny/../../etc/passwd",
        "user/tiny/..",
        "user/tiny//model",
        "user/tiny/folder/",
        "user/tiny/.hidden",
        "user/tiny/a\\b",
        "user\\x/tiny/model",
        "user/tiny/a\0b",
        "user/tiny/a\nb",
        "user/tiny?x=/model",
        "user/" + "x" * 97 + "/model",
        "user/tiny/" + "x" * 300,
    ],
)
async def test_a_name_that_may_lead_elsewhere_is_none(mirror: Mirror, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        hub.parse(name)
    assert refused.value.param == "model"
    user, repository, file = [*name.split("/", 2), "", ""][:3]
    with pytest.raises(BadRequest):
        await anext(hub.fetch(f"{user}/{repository}", file, tmp_path, endpoint=mirror.url, token=None))
    assert mirror.seen == []
    assert os.listdir(tmp_path) == []


def test_a_name_is_a_repository_and_a_file_of_it() -> None:
    assert hub.parse("user/tiny-1.5B_x/model.rkllm") == ("user/tiny-1.5B_x", "model.rkllm")
    assert hub.parse("user/tiny/folder/ä model.gguf") == ("user/tiny", "folder/ä model.gguf")
