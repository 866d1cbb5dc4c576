"""Memory that a model takes beyond what was planned for, and models that do not fit."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from exo.store.catalogue import BUNDLED
from tests.durability.bare import Bare
from tests.e2e.conftest import Start
from tests.e2e.node import chat_body, wait, write_script

_MIB = 1 << 20


def test_former_prompts_take_no_memory_beside_the_slots(tmp_path: Path) -> None:
    """llama.cpp would keep up to 8 GiB of them: about 2 MB for each of these."""
    with Bare(tmp_path, 'exec "$@"', "--context", "2048") as node:
        for number in range(12):
            node.answers()
            ask(node, number)
        before = resident(node)
        for number in range(12, 72):
            ask(node, number)
        grown = resident(node) - before
        assert node.ends() == 0
    assert grown < 20 * _MIB, f"{grown / _MIB:.0f} MiB more"


def test_models_that_come_and_go_beside_others_leave_nothing(tmp_path: Path) -> None:
    """While others are asked, so that threads and what they allocate change all the time."""
    models = tmp_path / "models"
    models.mkdir()
    for name in ("one", "two"):
        (models / f"{name}.gguf").symlink_to(BUNDLED / "exo-demo" / "model.gguf")
    # Room for the bundled model, and for one of the others.
    with Bare(tmp_path, 'exec "$@"', "--memory", "40MB") as node, ThreadPoolExecutor(4) as clients:
        over = Event()

        def keep_asking() -> None:
            while not over.is_set():
                node.answers()

        asking = [clients.submit(keep_asking) for _ in range(4)]
        try:
            for _ in range(2):
                load(node, "one", "two")
            before = resident(node)
            for _ in range(10):
                load(node, "one", "two")
            grown = resident(node) - before
        finally:
            over.set()
        for each in asking:
            each.result()
        assert node.ends() == 0
    assert grown < 24 * _MIB, f"{grown / _MIB:.0f} MiB more"


def test_a_model_larger_than_the_nodes_memory_is_refused_and_others_are_served(
    start: Start, home: Path
) -> None:
    (home / "models").mkdir(parents=True)
    shutil.copy(BUNDLED / "exo-demo" / "model.gguf", home / "models" / "large.gguf")
    write_script(home, "small", [wait(0), {"type": "text", "text": "hi"}])
    node = start("--memory", "10MB")
    refused = node.chat("large")
    assert refused.status == 503, refused
    message = refused.error()["message"]
    assert "large" in message
    assert "--memory" in message
    node.assert_serves("small")


def ask(node: Bare, number: int) -> None:
    """Something else each time, from its first word on."""
    text = f"{number} " + " ".join(f"{number * each % 997}" for each in range(300))
    status, said = node.request(
        "POST", "/v1/chat/completions", chat_body("exo-demo", text, max_tokens=1, temperature=0)
    )
    assert status == 200, said


def load(node: Bare, *models: str) -> None:
    for model in models:
        status, said = node.request("POST", "/v1/load", {"model": model})
        assert (status, said.get("model")) == (200, model), said


def resident(node: Bare) -> int:
    """Bytes of its own: pages of files come and go."""
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))
