"""What the Dockerfile promises, as far as reading it shows; it is not built here."""

from __future__ import annotations

import re

from retouch.deployment.kubernetes.manifests import CACHE_FOLDER, USER

from tests import ROOT

DOCKERFILE = (ROOT / "cluster/Dockerfile").read_text()
INSTRUCTIONS = [line for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


def test_uv_is_the_one_that_sets_up_every_other_environment() -> None:
    (image,) = re.findall(r"ARG UV_VERSION=([\d.]+)", DOCKERFILE)
    (make,) = re.findall(r"UV_VERSION := ([\d.]+)", (ROOT / "Makefile").read_text())
    assert image == make


def test_what_is_installed_is_what_the_lock_has() -> None:
    syncs = [line for line in INSTRUCTIONS if "uv sync" in line]
    assert syncs
    assert all("--frozen" in line and "--no-dev" in line for line in syncs)
    assert any(re.match(r"COPY .*\buv\.lock\b", line) for line in INSTRUCTIONS)


def test_it_runs_as_the_user_that_the_pods_name_and_that_user_owns_the_cache() -> None:
    assert [line for line in INSTRUCTIONS if line.startswith("USER")] == [f"USER {USER}:{USER}"]
    assert f"--uid {USER}" in DOCKERFILE
    assert f"install -d -o {USER} -g {USER} {CACHE_FOLDER}" in DOCKERFILE
    assert f"RETOUCH_CACHE={CACHE_FOLDER}" in DOCKERFILE


def test_it_has_cudas_runtime_and_the_cuda_of_the_locked_torch() -> None:
    (base,) = re.findall(r"^FROM nvidia/cuda:(\d+)\.[\d.]+-runtime-", DOCKERFILE, re.MULTILINE)
    assert re.search(rf'name = "nvidia-cudnn-cu{base}"', (ROOT / "uv.lock").read_text())


def test_no_secret_and_no_weights_are_copied() -> None:
    assert not re.search(r"(?i)token|secret|password|credential(?!s from)", " ".join(INSTRUCTIONS))
    taken = {word for line in INSTRUCTIONS if line.startswith("COPY") for word in line.split()[1:-1]}
    ours = {"pyproject.toml", "uv.lock", "README.md", "LICENSE", "pipeline", "cluster/spot_drain.sh"}
    assert {word for word in taken if not word.startswith("--")} == ours
    ignored = (ROOT / "cluster/Dockerfile.dockerignore").read_text().split()
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == ours
    assert all((ROOT / path).exists() for path in ours)
