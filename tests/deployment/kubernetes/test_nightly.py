"""The RayJob of a nightly run, through Kubernetes' own client, against an API server that has RayJobs only."""

from __future__ import annotations

import datetime as dt
import json
import threading
import zoneinfo
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from retouch.deployment.kubernetes import nightly
from retouch.deployment.kubernetes.nightly import CronRun, KubernetesApi, due_time, ray_job, run_to_end
from retouch.deployment.kubernetes.render import RenderOptions, render
from retouch.errors import ConfigError, Interrupted

from tests.cluster import crds, rules
from tests.cluster.checked import objects
from tests.helpers.jobs_on_s3 import EDIT

AT = dt.datetime(2026, 11, 26, 1, 0, tzinfo=dt.UTC)  # two o'clock in Berlin
RUN = CronRun(f"nightly-{int(AT.timestamp()) // 60}", "0b1c", "batch")
BERLIN = "Europe/Berlin"
TEMPLATE = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "nightly", "labels": {"a": "b"}},
    "spec": {"entrypoint": "retouch run job.yaml --set output=s3://bucket/{date}"},
}


class Api(ThreadingHTTPServer):
    """RayJobs by name; each look at one takes the next of its states."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.made: dict[str, dict[str, Any]] = {}
        self.states: list[dict[str, Any]] = []
        self.trouble: list[int] = []  # statuses of the next answers
        self.paths: list[str] = []


class Requests(BaseHTTPRequestHandler):
    server: Api

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["metadata"]["name"]
        if self._is_hindered():
            return
        if name in self.server.made:
            self._answer(409, {"reason": "AlreadyExists"})
        else:
            self.server.made[name] = body
            self._answer(201, body)

    def do_GET(self) -> None:
        if self._is_hindered():
            return
        found = self.server.made.get(self.path.rpartition("/")[2])
        if found is None:
            self._answer(404, {"reason": "NotFound"})
        else:
            status = self.server.states.pop(0) if self.server.states else {}
            self._answer(200, {**found, "status": status})

    def _is_hindered(self) -> bool:
        self.server.paths.append(self.path)
        if not self.server.trouble:
            return False
        self._answer(self.server.trouble.pop(0), {"message": "no"})
        return True

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    server = Api()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def jobs(api: Api) -> Iterator[KubernetesApi]:
    from kubernetes import client

    configuration = client.Configuration(host=f"http://127.0.0.1:{api.server_port}")
    configuration.proxy = None
    configuration.retries = False
    with client.ApiClient(configuration) as connection:
        yield KubernetesApi(client.CustomObjectsApi(connection), "batch")


def states(*names: str, outcome: str = "") -> list[dict[str, Any]]:
    return [{"jobDeploymentStatus": name, "jobStatus": outcome} for name in names]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nightly, "POLL_SECONDS", 0.01)


def succeeded(jobs: KubernetesApi, lines: list[str] | None = None) -> bool:
    return run_to_end(TEMPLATE, RUN, BERLIN, "date", jobs, (lines if lines is not None else []).append)


def test_a_run_is_named_after_the_time_at_which_it_was_due_whenever_its_pod_starts() -> None:
    assert due_time(RUN.job_name, dt.datetime.now(dt.UTC)) == AT
    assert due_time("nightly-by-hand", AT) == AT


def test_a_rayjob_has_the_date_in_the_schedules_time_zone_and_its_owner_is_the_run() -> None:
    late = dt.datetime(2026, 11, 25, 23, 30, tzinfo=dt.UTC)
    made = ray_job(TEMPLATE, RUN, late.astimezone(zoneinfo.ZoneInfo(BERLIN)), "date")
    assert made["metadata"]["name"] == "nightly-20261126"
    assert made["spec"]["entrypoint"].endswith("output=s3://bucket/2026-11-26")
    (owner,) = made["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "batch/v1", "kind": "Job", "name": RUN.job_name, "uid": RUN.job_uid}
    assert ray_job(TEMPLATE, RUN, late, "minute")["metadata"]["name"] == "nightly-20261125-2330"
    assert TEMPLATE["metadata"] == {"name": "nightly", "labels": {"a": "b"}}


def test_a_rayjob_from_a_rendered_template_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(EDIT.replace("Nightly.Photos", "A-name-that-is-as-long-as-no-person-would-ever-choose-it"))
    text = render(RenderOptions(str(path), "cronjob", "retouch:1", cron="*/5 * * * *"), "")
    (template,) = [one for one in objects(text) if one["kind"] == "RayJob"]
    night = ray_job(template, RUN, AT, "minute")
    assert crds.faults(night) == []
    assert rules.faults(night) == []


def test_a_rayjob_is_created_once_and_followed_to_its_end(api: Api, jobs: KubernetesApi) -> None:
    api.states = states("Initializing", "Running", "Running") + states("Complete", outcome="SUCCEEDED")
    lines: list[str] = []
    assert succeeded(jobs, lines)
    assert list(api.made) == ["nightly-20261126"]
    assert api.paths[0] == "/apis/ray.io/v1/namespaces/batch/rayjobs"
    assert [line.split()[2] for line in lines[1:]] == ["Initializing", "Running", "Complete"]


def test_a_second_pod_of_the_same_run_creates_no_second_rayjob(api: Api, jobs: KubernetesApi) -> None:
    api.states = states("Complete", outcome="SUCCEEDED") * 2
    lines: list[str] = []
    assert succeeded(jobs)
    assert succeeded(jobs, lines)
    assert len(api.made) == 1
    assert "exists already" in lines[0]


@pytest.mark.parametrize("last", [states("Failed", outcome="FAILED"), states("Complete", outcome="STOPPED")])
def test_a_run_that_failed_or_was_stopped_is_no_success(
    api: Api, jobs: KubernetesApi, last: list[dict[str, Any]]
) -> None:
    api.states = states("Running", "Retrying") + last
    assert not succeeded(jobs)


def test_requests_that_fail_temporarily_are_repeated(api: Api, jobs: KubernetesApi) -> None:
    api.trouble = [500, 429, 503]
    api.states = states("Complete", outcome="SUCCEEDED")
    assert succeeded(jobs)


def test_an_api_server_that_stays_away_ends_the_pod_but_not_the_run(
    api: Api, jobs: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nightly, "API_TIMEOUT", 0.05)
    api.trouble = [503] * 100
    with pytest.raises(Interrupted, match="503"):
        succeeded(jobs)


def test_a_refusal_has_its_reason(api: Api, jobs: KubernetesApi) -> None:
    api.trouble = [403]
    with pytest.raises(ConfigError, match="refuses RayJob nightly-20261126: 403"):
        succeeded(jobs)


def test_a_deleted_rayjob_is_not_created_again(api: Api, jobs: KubernetesApi) -> None:
    api.trouble = [201, 404]
    with pytest.raises(ConfigError, match="is gone"):
        succeeded(jobs)


def test_the_template_is_in_the_configmap(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(EDIT)
    (files, _, night) = objects(render(RenderOptions(str(path), "cronjob", "retouch:1", cron="0 2 * * *"), ""))
    assert yaml.safe_load(files["data"]["rayjob.yaml"]) == night
