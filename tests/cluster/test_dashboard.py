"""The dashboard shows what we export, and nothing that nobody exports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

CLUSTER = Path(__file__).parents[2] / "cluster"
# As Prometheus sees them: ray.util.metrics puts ray_ before a name, and _total behind a counter's.
EXPORTED = {
    "ray_retouch_rows_total": {"job", "status"},
    "ray_retouch_stage_seconds_total": {"job", "stage"},
    "ray_retouch_retries_total": {"job", "reason"},
    "ray_retouch_gpu_busy_ratio": {"job"},
    "ray_retouch_batch_fill_ratio": {"job"},
}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CLUSTER / "grafana-dashboard.json").read_text())
    return found


def expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def test_every_expression_names_metrics_and_labels_that_we_export() -> None:
    for expression in expressions():
        named = re.findall(r"(ray_\w+)\{([^}]*)\}", expression)
        assert named, expression
        assert len(named) == expression.count("ray_"), expression
        for metric, matchers in named:
            assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= EXPORTED[metric], expression
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            assert set(labels.split(", ")) <= set.union(*(EXPORTED[metric] for metric, _ in named)), expression


def test_every_metric_is_shown() -> None:
    assert all(any(metric in expression for expression in expressions()) for metric in EXPORTED)


def test_no_two_panels_overlap() -> None:
    seen: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        grid = panel["gridPos"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & seen
        seen |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))


def test_prometheus_keeps_our_label_job() -> None:
    """Its own label of that name would push ours aside, and every expression would find nothing."""
    assert "honorLabels: true" in (CLUSTER / "podmonitor.yaml").read_text()
