"""A job becomes objects that Kubernetes and KubeRay accept; a job that could not run there is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from retouch import storage
from retouch.deployment.kubernetes.manifests import JOB_FOLDER
from retouch.deployment.kubernetes.render import KINDS, LONGEST_NAME, RenderOptions, kubernetes_name, render
from retouch.errors import ConfigError
from retouch.jobs.config import parse_job
from retouch.jobs.overrides import apply_overrides

from tests.cluster.checked import faults, objects
from tests.helpers.jobs_on_s3 import ALL, EDIT

CRON = "0 2 * * *"


def rendered(tmp_path: Path, text: str = EDIT, **options: Any) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    given = {"kind": "cronjob", "image": "retouch:0.1.0", **options}
    if given["kind"] == "cronjob":
        given.setdefault("cron", CRON)
    return render(RenderOptions(str(path), **given), "retouch schedule")


def of_kind(text: str, kind: str) -> dict[str, Any]:
    (found,) = [one for one in objects(text) if one["kind"] == kind]
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("job", ALL)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gpus": 8, "secrets": ("s3", "hub"), "namespace": "batch"},
        {"workers": (1, 3), "spot": False},
        {"gpus": 0},
    ],
    ids=["plain", "gpus", "workers", "cpus"],
)
def test_every_object_of_every_job_is_valid(tmp_path: Path, kind: str, job: str, options: dict[str, Any]) -> None:
    text = ALL[job].replace("gpus_per_actor: 0.5, ", "") if options.get("gpus") == 0 else ALL[job]
    assert faults(rendered(tmp_path, text, kind=kind, **options)) == []


@pytest.mark.parametrize("kind", ["cronjob", "rayjob", "raycluster"])
def test_objects_with_a_queue_are_valid_and_do_not_autoscale(tmp_path: Path, kind: str) -> None:
    text = rendered(tmp_path, kind=kind, queue="gpus")
    assert faults(text) == []
    made = of_kind(text, "RayCluster" if kind == "raycluster" else "RayJob")
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    spec = made["spec"] if kind == "raycluster" else made["spec"]["rayClusterSpec"]
    assert not spec.get("enableInTreeAutoscaling")


def test_the_job_file_is_copied_unchanged_and_the_head_reads_it(tmp_path: Path) -> None:
    text = rendered(tmp_path, kind="rayjob")
    files = of_kind(text, "ConfigMap")
    assert files["data"] == {"job.yaml": EDIT}
    spec = of_kind(text, "RayJob")["spec"]
    assert spec["entrypoint"].startswith(f"retouch run {JOB_FOLDER}/job.yaml --address auto ")
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "job", "configMap": {"name": files["metadata"]["name"]}} in head["volumes"]
    assert {"name": "job", "mountPath": JOB_FOLDER, "readOnly": True} in head["containers"][0]["volumeMounts"]


def test_a_job_file_on_storage_is_read_from_there() -> None:
    storage.write_bytes("memory://jobs/edit.yaml", EDIT.encode())
    text = render(RenderOptions("memory://jobs/edit.yaml", "rayjob", "retouch:0.1.0"), "retouch schedule")
    assert faults(text) == []
    assert [one["kind"] for one in objects(text)] == ["RayJob"]
    assert "retouch run memory://jobs/edit.yaml --address auto" in of_kind(text, "RayJob")["spec"]["entrypoint"]


def test_settings_follow_the_job_and_the_command_line(tmp_path: Path) -> None:
    text = rendered(tmp_path, kind="rayjob", gpus=4, overrides=("seed=7",))
    entrypoint = of_kind(text, "RayJob")["spec"]["entrypoint"]
    assert entrypoint.endswith("--set seed=7 --set ray.actors=8 --set ray.gpus_per_actor=0.5")
    gpu = of_kind(text, "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]
    assert gpu["maxReplicas"] == 4
    assert gpu["rayStartParams"]["resources"] == "'{\"editor\": 2}'"


def test_the_settings_of_the_command_are_valid_for_the_job(tmp_path: Path) -> None:
    for text in ALL.values():
        words = of_kind(rendered(tmp_path, text, kind="rayjob"), "RayJob")["spec"]["entrypoint"].split()
        settings = [word for before, word in itertools.pairwise(words) if before == "--set"]
        assert settings
        assert parse_job(apply_overrides(yaml.safe_load(text), settings), "job").name == yaml.safe_load(text)["name"]


def test_the_template_of_a_run_has_a_placeholder_for_its_date(tmp_path: Path) -> None:
    night = of_kind(rendered(tmp_path), "RayJob")
    assert night["spec"]["entrypoint"].endswith(" --date {date}")
    assert night["metadata"]["name"] == "nightly-photos"
    assert "{date}" not in of_kind(rendered(tmp_path, kind="rayjob"), "RayJob")["spec"]["entrypoint"]


def test_the_name_of_a_run_has_the_minute_if_a_day_has_several(tmp_path: Path) -> None:
    def arguments(cron: str) -> list[str]:
        pod = of_kind(rendered(tmp_path, cron=cron), "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        found: list[str] = pod["containers"][0]["args"]
        return found

    assert arguments(CRON) == ["--timezone", "Etc/UTC", "--dated", "date"]
    assert arguments("0 */6 * * *")[-1] == "minute"


def test_an_attempt_ends_before_the_next_run_is_due(tmp_path: Path) -> None:
    def deadline(cron: str) -> int:
        seconds: int = of_kind(rendered(tmp_path, cron=cron), "RayJob")["spec"]["activeDeadlineSeconds"]
        return seconds

    assert deadline(CRON) == 23 * 3600
    assert deadline("0 2 * * 1") == 23 * 3600
    assert deadline("0 */6 * * *") == 6 * 23 * 150


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cron": None}, "needs a time"),
        ({"cron": "0 25 * * *"}, "the hour"),
        ({"timezone": "Europe/Bonn"}, "no time zone"),
        ({"kind": "rayjob", "cron": CRON}, "leave --cron out"),
        ({"gpus": 2, "workers": (0, 2)}, "one of them"),
        ({"workers": (3, 2)}, "no range"),
        ({"workers": (0, 0)}, "no range"),
        ({"namespace": "My Namespace"}, "--namespace"),
        ({"queue": "a_b"}, "--queue"),
        ({"image": "retouch:0.1.0; rm"}, "--image"),
        ({"service_account": "Me"}, "--service-account"),
        ({"overrides": ("editor.params={steps: 2}",)}, "that a shell reads"),
        ({"overrides": ("name=$HOME",)}, "name"),
    ],
)
def test_options_that_cannot_work_are_refused(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        rendered(tmp_path, **options)


@pytest.mark.parametrize(
    ("job", "old", "new", "field"),
    [
        ("edit", "s3://bucket/manifests/photos", "manifests/photos.parquet", "manifest"),
        ("edit", "s3://bucket/output/photos/{date}", "runs/photos", "output"),
        ("edit", "s3://bucket/weights/unet.pt", "/models/unet.pt", "editor.weights.unet"),
        ("edit", "[clip_score]", "[{name: clip_score, weights: {clip: clip.pt}}]", "metrics.0.weights.clip"),
        ("edit", "seed: 0", "latents: file:///tmp/latents", "latents"),
        ("edit", "seed: 0", "carry: runs/photos/*", "carry"),
        ("finetune", "s3://bucket/manifests/blue.parquet", "blue.parquet", "targets.0.manifest"),
        ("train", "s3://bucket/manifests/b.parquet", "b.parquet", "manifest.1"),
        ("train", "embedded:shapes", "memory://weights", "weights"),
        ("evaluate", "s3://bucket/output/photos", "runs/photos", "results"),
        ("evaluate", "s3://bucket/manifests/real.parquet", "{fid: real.safetensors}", "reference.fid"),
    ],
)
def test_a_file_of_this_machine_is_refused_with_the_field(
    tmp_path: Path, job: str, old: str, new: str, field: str
) -> None:
    text = ALL[job] + ("seed: 0\n" if old == "seed: 0" else "")
    assert old in text
    with pytest.raises(ConfigError, match=f"^{field} is .*no pod has"):
        rendered(tmp_path, text.replace(old, new))


@pytest.mark.parametrize(
    "secret",
    ["https://me:hunter22hunter22@host/photos", "https://host/photos?X-Amz-Signature=abcdef0123456789abcdef"],
)
def test_a_job_with_a_credential_in_it_is_refused_and_not_repeated(tmp_path: Path, secret: str) -> None:
    with pytest.raises(ConfigError, match="--secret NAME") as refused:
        rendered(tmp_path, EDIT.replace("s3://bucket/manifests/photos", secret))
    assert "hunter22" not in str(refused.value)
    assert "abcdef0123" not in str(refused.value)


def test_no_value_of_the_environment_can_reach_the_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMIK7MDENG")
    monkeypatch.setenv("HF_TOKEN", "bucket-of-mine")
    assert "wJalr" not in rendered(tmp_path, secrets=("s3",))
    with pytest.raises(ConfigError, match="--secret NAME"):
        rendered(tmp_path, EDIT.replace("bucket/", "bucket-of-mine/"))


def test_a_secrets_value_in_place_of_its_name_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--secret takes the name") as refused:
        rendered(tmp_path, secrets=("wJalrXUtnFEMI/K7MDENG",))
    assert "wJalr" not in str(refused.value)


def test_names_are_valid_on_kubernetes_and_long_ones_stay_different() -> None:
    assert kubernetes_name("Nightly.Photos_2") == "nightly-photos-2"
    assert kubernetes_name("7days") == "job-7days"
    one, other = kubernetes_name("a" * 60), kubernetes_name("a" * 61)
    assert one != other
    assert len(one) <= LONGEST_NAME
    assert kubernetes_name("-") == "job"


def test_a_file_that_is_no_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no job file"):
        render(RenderOptions(str(tmp_path / "none.yaml"), "rayjob", "retouch"), "")
    with pytest.raises(ConfigError, match="not a mapping"):
        rendered(tmp_path, "- a\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        rendered(tmp_path, "a: [\n")
    with pytest.raises(ConfigError, match="unknown key"):
        rendered(tmp_path, EDIT + "colour: red\n")
