"""The configuration, the rules and the alerts that are shipped, and the figures of real processes."""

import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exo.metrics import Metrics
from tests.deploy.conftest import Cluster, members
from tests.deploy.prometheus import CONFIGURATION, DEPLOY, Prometheus, program, shipped

ALL = {("exo", "board"), ("exo", "pc"), ("rkllama", "board")}
DOCUMENT = DEPLOY.parent / "docs" / "METRICS.md"


def promtool(*arguments: str | Path, given: bytes = b"") -> None:
    """Fails with all that it says, if it has anything against it."""
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], input=given, capture_output=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def rules(prometheus: Prometheus) -> list[dict[str, object]]:
    """Those that it has, and how they are."""
    return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("file", ["prometheus.yml", "prometheus-files.yml"])
def test_the_configuration_is_valid(file: str) -> None:
    promtool("check", "config", CONFIGURATION / file)


def test_the_rules_are_valid() -> None:
    files = sorted((CONFIGURATION / "rules").glob("*.yml"))
    promtool("check", "rules", "--lint=all", "--lint-fatal", *files)


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", Path(__file__).with_name("alerts_test.yml"))


def test_every_alert_has_a_test() -> None:
    named = (CONFIGURATION / "rules" / "alerts.yml").read_text()
    tested = Path(__file__).with_name("alerts_test.yml").read_text()
    alerts = [line.split(": ")[1] for line in named.splitlines() if "- alert: " in line]
    assert len(alerts) > 10
    for alert in alerts:
        assert f"- alertname: {alert}\n" in tested, f"nothing shows that {alert} fires"


def test_the_figures_of_real_processes_are_as_prometheus_wants_them(cluster: Cluster) -> None:
    cluster.traffic()
    for node in cluster:
        promtool("check", "metrics", given=node.get("/metrics").body)


def test_the_documentation_names_all_figures_and_no_others(cluster: Cluster) -> None:
    """Each with its kind and its labels."""
    row = re.compile(r"^\| `(\w+)` \| (\w+) \|([a-z, ]*)\|", re.MULTILINE)
    told = {
        name: (kind, {label for label in labels.replace(" ", "").split(",") if label})
        for name, kind, labels in row.findall(DOCUMENT.read_text())
    }
    cluster.traffic()
    # These nodes have no keys, so there is nothing to be told by key.
    keyed = Metrics("0", ())
    keyed.key_label("laptop")
    found: dict[str, tuple[str, set[str]]] = {}
    for figures in (keyed.exposition(), *(node.get("/metrics").body for node in cluster)):
        for family in text_string_to_metric_families(figures.decode()):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            if not name.startswith("process_") and family.samples:
                found[name] = (family.type, labels)
    assert found == told


def test_a_request_that_is_passed_on_is_counted_on_both_nodes_and_as_such_on_one(cluster: Cluster) -> None:
    """Only the board has the NPU server."""
    board, pc = cluster.board, cluster.pc

    def counts() -> tuple[float, ...]:
        return (
            pc.metric("exo_routes_total", to="board"),
            pc.metric("exo_requests_total", model="npu-demo", status="success"),
            board.metric("exo_requests_total", model="npu-demo", status="success"),
            board.metric("exo_hop_requests_total", model="npu-demo"),
            pc.metric("exo_hop_requests_total"),
            cluster.npu.metric("rkllm_inference_duration_seconds_count"),
        )

    before = counts()
    tokens = board.metric("exo_hop_tokens_total")
    usage = pc.chat("npu-demo", "What is 3 + 4?").json()["usage"]
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 1, 1, 1, 0, 1]
    assert board.metric("exo_hop_tokens_total") - tokens == usage["completion_tokens"]


def test_all_nodes_and_their_npu_servers_are_found_by_one_of_them(
    cluster: Cluster, prometheus: Prometheus
) -> None:
    prometheus.until(lambda: prometheus.up() == ALL, f"{ALL} are up")
    assert {target["health"] for target in prometheus.get("targets")["activeTargets"]} == {"up"}
    cluster.traffic()
    prometheus.until(lambda: prometheus.has("exo_routes_total"), "requests that were sent to a node are seen")
    # A label of a figure that has the name of a target's would come out as another one.
    assert not [label for label in prometheus.get("labels") if label.startswith("exported_")]


def test_every_rule_is_evaluated_and_every_recording_has_data(
    cluster: Cluster, prometheus: Prometheus
) -> None:
    prometheus.until(lambda: all(each["health"] == "ok" for each in rules(prometheus)), "all rules are well")
    assert len(rules(prometheus)) > 20
    for rule in rules(prometheus):
        name = str(rule["name"])
        if rule["type"] == "recording":

            def answered(name: str = name) -> bool:
                cluster.traffic()
                return prometheus.has(name)

            prometheus.until(answered, f"{name} has data")
        else:
            prometheus.ask(str(rule["query"]))
    firing = [rule["name"] for rule in rules(prometheus) if rule.get("state") == "firing"]
    assert firing == [], firing


def test_nodes_with_a_key_are_scraped_as_the_documentation_says_and_missed_when_they_die(
    tmp_path: Path,
) -> None:
    """A node that dies is no target any more."""
    key = "a-key-of-this-test"
    (tmp_path / "key").write_text(f"{key}\n")
    told = DOCUMENT.read_text().partition("```yaml\n")[2].partition("```")[0]
    assert told.count("/etc/prometheus/exo.key") == 2
    with ExitStack() as stack:
        board, pc = members(tmp_path, stack, key=key)
        assert board.get("/v1/prometheus/targets").status == 401
        assert board.get("/metrics").status == 401
        told = told.replace("/etc/prometheus/exo.key", str(tmp_path / "key"))
        told = told.replace("http://localhost:52415", board.url).replace("30s", "1s")
        more = f"global: {{scrape_interval: 1s}}\nrule_files: [{CONFIGURATION}/rules/*.yml]\n"
        with Prometheus(tmp_path / "prometheus", more + told) as prometheus:
            prometheus.until(lambda: len(prometheus.up()) == 2, "both are up")
            query = next(str(rule["query"]) for rule in rules(prometheus) if rule["name"] == "ExoNodeDown")
            assert prometheus.ask(query) == []
            pc.kill()
            prometheus.until(lambda: prometheus.ask('up{node="pc"}') == [], "it is no target any more")
            assert prometheus.ask(query) == [({"node": "pc"}, 1.0)]
        board.stop()


def test_nodes_in_files_are_scraped_under_their_address_or_the_name_given(
    cluster: Cluster, tmp_path: Path
) -> None:
    address = cluster.pc.url.removeprefix("http://")
    (tmp_path / "targets.yml").write_text(
        (CONFIGURATION / "targets" / "exo.yml").read_text().replace("localhost:52415", address, 1)
        + f"- targets: ['127.0.0.1:{cluster.npu.port}']\n  labels: {{job: rkllama}}\n"
    )
    configuration = shipped("prometheus-files.yml", **{"targets/*.yml": str(tmp_path / "*.yml")})
    with Prometheus(tmp_path / "prometheus", configuration) as prometheus:
        wanted = {("exo", "this-machine"), ("rkllama", f"127.0.0.1:{cluster.npu.port}")}
        prometheus.until(lambda: prometheus.up() == wanted, f"{wanted} are up")
