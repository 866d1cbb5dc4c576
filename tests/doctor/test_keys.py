"""Keys that can be guessed, cannot be used, or that other nodes do not have."""

from pathlib import Path

from exo.admission import keyfile
from exo.admission.keys import Key, digest
from exo.doctor.evidence import Evidence
from exo.doctor.examine import examine
from exo.doctor.finding import Finding
from exo.doctor.gather import machine
from tests.doctor.healthy import HEALTHY, bad, ill
from tests.doctor.test_gather_machine import scope


def found(evidence: Evidence, subject: str) -> Finding:
    [finding] = [each for each in examine(evidence) if each.subject == subject]
    return finding


def test_a_short_key_is_noted_with_a_better_one() -> None:
    assert bad(HEALTHY) == []
    [finding] = bad(ill("security", guessable=True))
    assert (finding.level, finding.subject) == ("note", "API key")
    assert "fewer than 16" in finding.says
    assert "openssl rand -hex 32" in str(finding.remedy)


def test_a_file_that_keeps_the_node_from_starting_is_broken() -> None:
    problem = "/h/keys.json: other users of this machine have access to it; run chmod 600 /h/keys.json"
    [finding] = bad(ill("security", keys_problem=problem))
    assert (finding.level, finding.subject) == ("broken", "API keys")
    assert finding.remedy == "run chmod 600 /h/keys.json"


def test_keys_of_a_file_close_a_node_as_its_own_does_but_are_nothing_to_other_nodes() -> None:
    [finding] = bad(ill("security", key=False, keys=2))
    assert (finding.level, finding.subject) == ("note", "Cluster")
    assert "cannot pass requests on" in finding.says
    assert "EXO_API_KEY on all nodes" in str(finding.remedy)
    assert bad(ill("security", key=False, keys=2, certificates=True)) == []
    assert bad(ill("security", keys=2)) == []
    assert "2" in found(ill("security", keys=2), "API keys").says


def test_that_the_last_key_is_gone_is_noted() -> None:
    [finding] = bad(ill("security", key=False, keys=0, certificates=True))
    assert (finding.level, finding.subject) == ("note", "API keys")
    assert "nobody is answered" in finding.says
    assert bad(ill("security", keys=0)) == []


def test_what_is_looked_at_tells_no_key(tmp_path: Path) -> None:
    nothing = machine.security(scope(tmp_path))
    assert (nothing.guessable, nothing.keys, nothing.keys_problem) == (False, None, "")
    assert machine.security(scope(tmp_path, key="x" * 15)).guessable
    assert not machine.security(scope(tmp_path, key="x" * 16)).guessable
    file = tmp_path / keyfile.NAME
    keyfile.add(file, Key(name="a", sha256=digest("word")))
    assert machine.security(scope(tmp_path)).keys == 1
    file.chmod(0o644)
    spoiled = machine.security(scope(tmp_path))
    assert spoiled.keys is None
    assert f"chmod 600 {file}" in spoiled.keys_problem
    assert digest("word") not in str(spoiled)
