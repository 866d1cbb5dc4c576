"""The commands of docs/TLS.md, run in a folder as they stand, but for addresses, ports and users."""

import getpass
import re
import shlex
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .node import PATIENCE, environment
from .test_readme import examples
from .tls import TlsNode

GUIDE = (Path(__file__).parents[2] / "docs" / "TLS.md").read_text(encoding="utf-8")
_URL = "https://192.168.1.10:52415"


def lines(block: str) -> list[str]:
    """Its commands, those that go on joined."""
    return block.replace("\\\n", "").splitlines()


def section(title: str) -> str:
    return GUIDE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


class Folder:
    """Where somebody who follows the guide is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nodes: list[TlsNode] = []

    def run(self, command: str, **env: str) -> str:
        """Raises where it fails."""
        command = command.replace("192.168.1.10", "127.0.0.1")
        if self.nodes:
            command = command.replace("https://127.0.0.1:52415", self.nodes[-1].url)
        ended = subprocess.run(
            ["bash", "-c", command],
            cwd=self.path,
            env=environment(self.path / "home", env),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ended.returncode == 0, (command, ended.stderr)
        return ended.stdout

    def follow(self, block: str) -> str:
        """Does the commands of a block in turn; what the last one said."""
        said = ""
        for line in lines(block):
            if line.startswith("exo --tls"):
                given = [
                    str(self.path / each) if each.endswith((".crt", ".key")) else each
                    for each in line.split()
                ]
                trusted = self.path / ("ca.crt" if (self.path / "ca.crt").exists() else "exo.crt")
                self.nodes.append(TlsNode(self.path / "home", trusted, *given[1:]))
            else:
                said = self.run(line)
        return said


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path)
    (tmp_path / "home").mkdir()
    try:
        yield folder
        for node in folder.nodes:
            node.stop()
    finally:
        for node in folder.nodes:
            node.kill()


def test_a_certificate_of_one_s_own(folder: Folder) -> None:
    [block] = examples(section("A certificate of your own"), "sh")
    assert len(lines(block)) <= 5
    assert "exo-demo" in folder.follow(block)


def test_clients_with_certificates_of_a_ca_of_one_s_own(folder: Folder) -> None:
    folder.follow(*examples(section("A CA of your own"), "sh"))
    assert "exo-demo" in folder.follow(*examples(section("Clients with a certificate"), "sh"))
    [program] = examples(section("Clients"), "python")
    (folder.path / "ask.py").write_text(program.replace(_URL, folder.nodes[0].url))
    assert "423" in folder.run(f"{shlex.quote(sys.executable)} ask.py")
    [commands] = examples(section("Clients"), "sh")
    exo = f'exo() {{ {shlex.quote(sys.executable)} -m exo.main "$@"; }}\n'
    assert "423" in folder.run(exo + commands)


def test_the_hook_of_let_s_encrypt_puts_files_where_a_node_takes_them_up(folder: Folder) -> None:
    folder.follow("\n".join(lines(examples(section("A certificate of your own"), "sh")[0])[:2]))
    lineage = folder.path / "live"
    lineage.mkdir()
    for name, to in (("exo.crt", "fullchain.pem"), ("exo.key", "privkey.pem")):
        (folder.path / name).rename(lineage / to)
    [hook] = examples(section("Let's Encrypt"), "sh")
    place = folder.path / "etc" / "tls"
    hook = hook.replace("-o exo", f"-o {getpass.getuser()}").replace("/etc/exo/tls", str(place))
    script = folder.path / "hook"
    script.write_text(hook)
    script.chmod(0o755)
    place.parent.mkdir()
    folder.run("./hook", RENEWED_LINEAGE=str(lineage))
    assert (place / "privkey.pem").stat().st_mode & 0o777 == 0o600
    certificate, key = place / "fullchain.pem", place / "privkey.pem"
    node = TlsNode(folder.path / "home", certificate, "--tls-cert", str(certificate), "--tls-key", str(key))
    folder.nodes.append(node)
    assert node.get("/healthcheck").status == 200
    # What the hook does with the next one.
    for path in lineage.iterdir():
        path.unlink()
    folder.follow("\n".join(lines(examples(section("A certificate of your own"), "sh")[0])[:2]))
    for name, to in (("exo.crt", "fullchain.pem"), ("exo.key", "privkey.pem")):
        (folder.path / name).rename(lineage / to)
    folder.run("./hook", RENEWED_LINEAGE=str(lineage))
    node.trust = ssl.create_default_context(cafile=str(certificate))
    assert node.get("/healthcheck").status == 200
    assert "stays in use" not in node.log


def test_what_the_guide_says_of_settings_is_in_their_table() -> None:
    from exo.cli import https
    from exo.cli.keys import SETTINGS

    names = {each.variable for each in SETTINGS} | https.VARIABLES | {"EXO_URL"}
    assert set(re.findall(r"\bEXO_\w+", GUIDE)) <= names
    flags = {flag for each in SETTINGS for flag in each.opts}
    assert set(re.findall(r"`(--tls-[a-z-]+)", GUIDE)) <= flags
