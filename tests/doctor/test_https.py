"""The certificate of the API's own port: what is found, and what is said of it."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from exo.doctor.evidence import Https, RunningNode
from exo.doctor.examine import examine
from exo.doctor.finding import Level
from exo.doctor.gather.https import https
from exo.doctor.gather.scope import Scope
from exo.settings import TlsSettings
from tests.certificates import Authority
from tests.doctor.healthy import HEALTHY, bad, instead, part, says

DAY = 86400.0
FINE = Https(file="/etc/exo/tls.pem", names=("exo.lan", "192.168.1.10"), left=60 * DAY)


def scope(tmp_path: Path, files: TlsSettings | None) -> Scope:
    return Scope(home=tmp_path, folders=(), url="https://127.0.0.1:1", tls=files)


def test_a_certificate_is_shown_with_names_and_days() -> None:
    evidence = instead(https=FINE)
    assert bad(evidence) == bad(HEALTHY)
    [said] = [finding.says for finding in examine(evidence) if finding.subject == "HTTPS"]
    assert said == "/etc/exo/tls.pem is for exo.lan, 192.168.1.10, and for 60 more days"


@pytest.mark.parametrize(
    ("changed", "level", "parts"),
    [
        ({"problem": "--tls-key x: others can read the key"}, "broken", ["does not start", "--tls-key x"]),
        ({"names": ()}, "broken", ["for no name"]),
        ({"left": 13.5 * DAY}, "note", ["for 13 more days", "Renew it"]),
        ({"left": 1.5 * DAY}, "note", ["for 1 more day Renew it"]),
    ],
)
def test_what_is_wrong_with_it_is_a_finding(changed: dict[str, Any], level: Level, parts: list[str]) -> None:
    says(instead(https=replace(FINE, **changed)), level, "HTTPS", *parts)


def test_a_node_that_wants_certificates_is_not_open() -> None:
    open = instead(security=part("security", key=False))
    says(open, "note", "API key", "whoever reaches")
    mutual = replace(open, https=replace(FINE, mutual=True))
    assert bad(mutual) == []
    assert any("only for clients with a certificate" in each.says for each in examine(mutual))


def test_a_key_goes_over_https() -> None:
    assert any("over HTTPS" in each.says for each in examine(instead(https=FINE)))
    assert any("unencrypted, over HTTP" in each.says for each in examine(HEALTHY))


def test_files_are_looked_at_as_a_node_would(tmp_path: Path) -> None:
    assert https(scope(tmp_path, None)) is None
    authority = Authority(tmp_path)
    certificate, key = authority.issue("node", "exo.lan", ends=20)
    files = TlsSettings(certificate=certificate, key=key)
    found = https(scope(tmp_path, files))
    assert found is not None
    assert (found.names, found.mutual, found.problem) == (("exo.lan",), False, None)
    assert 19 * DAY < found.left < 20 * DAY
    key.chmod(0o644)
    found = https(scope(tmp_path, replace(files, client_ca=authority.ca)))
    assert found is not None
    assert found.mutual
    assert f"chmod 600 {key}" in (found.problem or "")


@pytest.mark.parametrize("asked_for", [True, False])
@pytest.mark.parametrize(
    "problem",
    ["cannot reach it: its certificate is not trusted here", "broke off; it may ask for a certificate"],
)
def test_a_node_that_cannot_be_asked_is_not_taken_for_none(problem: str, *, asked_for: bool) -> None:
    node = RunningNode(url="https://x", asked_for=asked_for, problem=problem)
    says(instead(node=node), "broken" if asked_for else "note", "Node", "EXO_CA_FILE", "EXO_CLIENT_CERT")
