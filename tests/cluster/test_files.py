"""The files in cluster/ are valid, and those from `retouch schedule` are what that command prints today."""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from retouch.cli.app import app
from retouch.deployment.kubernetes.manifests import SCHEDULE_ACCOUNT
from retouch.jobs.config import load_job
from retouch.redaction import redacted
from typer.testing import CliRunner

from tests import ROOT
from tests.cluster.checked import faults, objects

CLUSTER = ROOT / "cluster"
OBJECTS = sorted(path for path in CLUSTER.glob("*.yaml") if "kind:" in path.read_text())
MADE = [path for path in OBJECTS if path.read_text().startswith("# Made by: ")]


def test_every_file_that_the_readme_lists_exists() -> None:
    made = {path.name for path in MADE}
    assert made == {"raycluster.yaml", "rayjob.yaml", "nightly.yaml"}
    assert {path.name for path in OBJECTS} == made | {"serviceaccount.yaml", "podmonitor.yaml"}


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_every_object_is_valid_for_kubernetes_and_kuberay(path: Path) -> None:
    assert faults(path.read_text()) == []


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.name)
def test_a_rendered_file_is_the_output_of_its_first_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = path.read_text()
    command = shlex.split(text.splitlines()[0].removeprefix("# Made by: "))
    assert command[0] == "retouch"
    made = CliRunner().invoke(app, command[1:])
    assert made.exit_code == 0
    assert made.stdout == text, f"make cluster-files renders {path.name} again"


def test_every_file_has_the_ray_version_of_the_lock() -> None:
    lock = (ROOT / "uv.lock").read_text()
    locked = re.search(r'name = "ray"\nversion = "([\d.]+)"', lock)
    assert locked is not None
    assert version("ray") == locked[1]
    for path in CLUSTER.iterdir():
        named = re.findall(r"(?i)ray(?:Version)?[^\n\d]{0,40}?(2\.\d+\.\d+)", path.read_text())
        assert set(named) <= {locked[1]}, path.name
        if path in MADE:
            assert named, path.name


def policy(name: str) -> list[dict[str, Any]]:
    statements: list[dict[str, Any]] = json.loads((CLUSTER / name).read_text())["Statement"]
    return statements


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def allowed(action: str) -> list[str]:
    """Prefixes of objects for which the S3 policy allows an action."""
    granted = [s for s in policy("s3-policy.json") if s["Effect"] == "Allow" and action in listed(s["Action"])]
    return [resource.removesuffix("*") for s in granted for resource in listed(s["Resource"])]


def test_the_s3_policy_allows_what_the_nightly_job_does_and_no_more() -> None:
    job = load_job(str(ROOT / "jobs/nightly.yaml"))
    assert job.kind == "edit"
    assert isinstance(job.editor.weights, dict)

    def within(address: str, action: str) -> bool:
        return f"arn:aws:s3:::{address.removeprefix('s3://')}/".startswith(tuple(allowed(action)))

    for address in (*job.manifests, *job.editor.weights.values(), job.output):
        assert within(address, "s3:GetObject"), address
    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert within(job.output, action)
        assert not within(job.manifests[0], action)
        assert not any(within(address, action) for address in job.editor.weights.values())
    for statement in policy("s3-policy.json"):
        assert not any("*" in action for action in listed(statement["Action"]))
        assert all(re.match(r"arn:aws:s3:::[\w-]+(/[\w-]+/\*)?$", one) for one in listed(statement["Resource"]))


def test_the_heads_policy_terminates_machines_of_its_cluster_only() -> None:
    name = yaml.safe_load((CLUSTER / "ray_up_aws.yaml").read_text())["cluster_name"]
    (ends,) = [s for s in policy("head-policy.json") if "ec2:TerminateInstances" in listed(s["Action"])]
    assert ends["Condition"] == {"StringEquals": {"aws:ResourceTag/ray-cluster-name": name}}


def test_the_pod_of_a_schedule_may_create_and_read_rayjobs_and_nothing_else() -> None:
    (role,) = [one for one in objects((CLUSTER / "serviceaccount.yaml").read_text()) if one["kind"] == "Role"]
    (binding,) = [one for one in objects((CLUSTER / "serviceaccount.yaml").read_text()) if one["kind"] == "RoleBinding"]
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}]
    assert [subject["name"] for subject in binding["subjects"]] == [SCHEDULE_ACCOUNT]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_nothing_in_the_folder_is_a_secret() -> None:
    for path in CLUSTER.iterdir():
        text = path.read_text()
        assert redacted(text) == text, path
        assert not re.search(r"BEGIN [A-Z ]*PRIVATE|password\s*[:=]", text), path
        assert "kind: Secret" not in text
