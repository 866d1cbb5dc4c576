"""The dashboard: as its script makes it, of Grafana's own type, and every query of it has data."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.conftest import Cluster
from tests.deploy.prometheus import DEPLOY, Prometheus

GRAFANA = DEPLOY / "grafana"
DASHBOARD = GRAFANA / "dashboards" / "exo.json"
CHECK = Path(__file__).parent / "grafana"


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Where each query is, and the query as Grafana would send it with everything chosen."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], chosen(target["expr"])


def chosen(expression: str) -> str:
    return expression.replace("$__rate_interval", "1m").replace("$node", ".*").replace("$model", ".*")


def test_it_is_what_its_script_makes() -> None:
    made = subprocess.run(
        [sys.executable, "-c", "import make_dashboard; print(make_dashboard.text(), end='')"],
        cwd=GRAFANA,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout == DASHBOARD.read_text(), "run python deploy/grafana/make_dashboard.py"


def test_the_overview_has_ten_panels_and_the_other_rows_are_there() -> None:
    found = dashboard()["panels"]
    rows = [place for place, panel in enumerate(found) if panel["type"] == "row"]
    titles = [found[place]["title"] for place in rows]
    assert titles == ["Overview", "Cluster", "Models", "NPU", "Routing"]
    assert rows[1] - rows[0] - 1 == 10


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    found = dashboard()["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    taken: set[tuple[int, int]] = set()
    for panel in found:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


WRONG = {
    "place": ('"gridPos": {', '"gridPosition": {'),
    "choice": ('"textMode": "auto"', '"textMode": "huge"'),
    "custom": ('"lineWidth": 1', '"lineWidths": 1'),
    "query": ('"legendFormat"', '"legendFormt"'),
    "number": ('"graphTooltip": 1', '"graphTooltip": "1"'),
}
"""What Grafana does not know: the check has to notice each."""


def test_it_is_of_grafanas_type(tmp_path: Path) -> None:
    """As its package of types has it, which one run of the compiler compares."""
    text = DASHBOARD.read_text()
    versions = {"right": text}
    for name, (right, wrong) in WRONG.items():
        assert right in text, name
        versions[name] = text.replace(right, wrong, 1)
    for name, version in versions.items():
        (tmp_path / f"{name}.ts").write_text(
            f'import type {{ Exo }} from "{CHECK / "types"}";\nexport const dashboard: Exo = {version};\n'
        )
    compiler = CHECK / "node_modules" / ".bin" / "tsc"
    assert compiler.exists(), f"the dashboard's type is checked by npm packages: npm ci --prefix {CHECK}"
    options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "esnext"]
    options += ["--moduleResolution", "bundler"]
    done = subprocess.run(
        [compiler, *options, *(f"{name}.ts" for name in versions)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    refused = set(re.findall(r"^(\w+)\.ts\(", done.stdout, re.MULTILINE))
    assert refused == WRONG.keys(), done.stdout


def test_every_query_has_data(cluster: Cluster, prometheus: Prometheus) -> None:
    left = set(queries())
    assert len(left) > 40

    def answered() -> bool:
        cluster.traffic()
        left.difference_update([each for each in left if prometheus.has(each[1])])
        return not left

    try:
        prometheus.until(answered, "all queries have data")
    except AssertionError:
        pytest.fail("no data for " + "\n".join(f"{title}: {query}" for title, query in sorted(left)))


def test_what_can_be_chosen_is_there(cluster: Cluster, prometheus: Prometheus) -> None:
    offered = {"node": {"board", "pc"}, "model": {"exo-demo", "npu-demo", "mine"}}
    variables = [each for each in dashboard()["templating"]["list"] if each["type"] == "query"]
    assert {each["name"] for each in variables} == offered.keys()
    for each in variables:
        matched = re.fullmatch(r"label_values\((.+), (\w+)\)", each["query"]["query"])
        assert matched

        def offers(name: str = each["name"], series: str = matched[1], label: str = matched[2]) -> bool:
            cluster.traffic()
            values = prometheus.get(f"label/{label}/values", **{"match[]": series})
            return offered[name] <= set(values)

        prometheus.until(offers, f"{each['name']} can be chosen")


def test_it_is_provisioned_from_the_folder_and_the_prometheus_that_are_named() -> None:
    """By Grafana's own names of the fields; Grafana itself was not at hand."""
    source = (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    assert "uid: prometheus" in source
    assert "url: ${PROMETHEUS_URL}" in source
    provider = (GRAFANA / "provisioning" / "dashboards" / "exo.yml").read_text()
    assert "path: /var/lib/grafana/dashboards" in provider
