"""Makes dashboards/exo.json, the dashboard of a cluster: `python deploy/grafana/make_dashboard.py`.

What it shows is in `panels`; here is how Grafana stores that. Needs nothing but Python.
"""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

from panels import ROWS, Panel, Query

Json: TypeAlias = dict[str, Any]

PLACE = Path(__file__).parent / "dashboards" / "exo.json"

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT = 24, 8  # of a dashboard, in Grafana's columns; of a panel, in its rows


def dashboard() -> Json:
    """The whole of it, as Grafana stores it."""
    return {
        "uid": "exo-rkllama",
        "title": "exo",
        "description": "A cluster of exo nodes and the NPU servers behind them.",
        "tags": ["exo", "rkllama", "llm"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [*_variables()]},
        "annotations": {"list": [_alerts()]},
        "panels": [*_panels()],
    }


def _panels() -> Iterator[Json]:
    ids, top = count(1), 0
    for row in ROWS:
        yield {
            "id": next(ids),
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": _WIDTH, "h": 1},
            "panels": [],
        }
        left, top = 0, top + 1
        for panel in row.panels:
            if left + panel.width > _WIDTH:
                left, top = 0, top + _HEIGHT
            yield {"id": next(ids), **_panel(panel, left, top)}
            left += panel.width
        top += _HEIGHT


def _panel(panel: Panel, left: int, top: int) -> Json:
    defaults: Json = {"unit": panel.unit, "min": 0}
    if panel.most is not None:
        defaults["max"] = panel.most
    options, custom = _LOOKS[panel.kind]
    if panel.kind == "timeseries" and panel.stacked:
        custom = {**custom, "fillOpacity": 30, "stacking": {"group": "A", "mode": "normal"}}
    if custom:
        defaults["custom"] = custom
    more = {"transformations": _AS_TABLE} if panel.kind == "table" else {}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.what,
        "datasource": _SOURCE,
        "gridPos": {"x": left, "y": top, "w": panel.width, "h": _HEIGHT},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        **more,
        "targets": [
            _target(query, letter, panel) for query, letter in zip(panel.queries, "ABCDE", strict=False)
        ],
    }


def _target(query: Query, letter: str, panel: Panel) -> Json:
    at_once: Json = {"instant": True, "range": False, "format": "table"} if panel.kind == "table" else {}
    return {
        "refId": letter,
        "datasource": _SOURCE,
        "expr": query.expr,
        "legendFormat": query.legend,
        **at_once,
    }


_LOOKS: dict[str, tuple[Json, Json]] = {
    "timeseries": (
        {
            "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": False},
    ),
    "stat": (
        {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "orientation": "auto",
            "textMode": "auto",
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "wideLayout": True,
            "showPercentChange": False,
            "percentChangeColorMode": "standard",
        },
        {},
    ),
    "table": ({"showHeader": True, "cellHeight": "sm"}, {}),
}
_AS_TABLE = [
    {
        "id": "organize",
        "options": {
            "excludeByName": {"Time": True, "Value": True, "__name__": True, "job": True, "node": True},
            "indexByName": {"id": 0, "instance": 1, "chip": 2, "kind": 3, "version": 4},
            "renameByName": {"id": "node", "instance": "address"},
        },
    }
]


def _variables() -> Iterator[Json]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    for name, values in (
        ("node", 'label_values(up{job=~"exo|rkllama"}, node)'),
        ("model", "label_values(exo_requests_total, model)"),
    ):
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": values, "refId": "A"},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }


def _alerts() -> Json:
    """Where alerts began, as marks on all panels."""
    return {
        "name": "Alerts",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "red",
        "target": {"refId": "A", "expr": 'ALERTS{alertstate="firing", alertname=~"Exo.*|Npu.*"}'},
        "titleFormat": "{{alertname}}",
        "textFormat": "{{node}}",
    }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PLACE.write_text(text(), encoding="utf-8")
