"""``retouch submit`` without a cluster; with one: ``tests/execution/executors/ray/test_two_nodes.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_app import retouch
from tests.helpers.ray_nodes import free_port

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--env", "PASSWORD=secret-value"], "--env takes a variable's name only"),
        (["--env", "NO_SUCH_VARIABLE"], "--env NO_SUCH_VARIABLE: no such variable in this environment"),
        ([], "manifest is manifests/shapes.parquet, which is not sent"),
        (["--working-dir", "."], "output is runs/quickstart, which on the cluster would be deleted"),
    ],
)
def test_what_cannot_be_sent_is_refused_in_one_line_before_any_cluster_is_asked(
    arguments: list[str], said: str
) -> None:
    done = retouch("submit", "jobs/quickstart.yaml", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr
    assert "secret-value" not in done.stderr + done.stdout


def test_without_a_cluster_the_commands_end_with_2_and_say_what_to_give(tmp_path: Path) -> None:
    done = retouch("jobs", "list", "--address", f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "give --address http://HOST:8265" in done.stderr
