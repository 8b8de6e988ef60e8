"""No file that is read as data can make the package run code: each door refuses a pickle that calls something.

What the restricted unpickler lets through is in ``tests/models/test_checkpoint.py``; here every loader is tried.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from retouch.errors import ConfigError, ManifestError, WeightsError
from retouch.execution import stages
from retouch.execution.evaluation import metric_states
from retouch.execution.latent_cache import StoredLatents
from retouch.execution.outcomes import ROW_COLUMN, unpack_rows
from retouch.imaging.faces import FaceDetector
from retouch.manifests import reader
from retouch.manifests.decode import DecodeSpec
from retouch.manifests.fingerprints import with_fingerprints
from retouch.manifests.importers import cocoee
from retouch.models.arcface import load_arcface
from retouch.models.checkpoint import read_state
from retouch.models.clip import load_clip
from retouch.models.deeplab import load_segmenter
from retouch.models.embedded.judge import load_judge
from retouch.models.inception import load_inception
from retouch.models.lpips import load_lpips
from retouch.models.paint_by_example import load_networks
from retouch.models.unet import load_unet
from retouch.training.exemplar.initial_weights import load_start
from retouch.training.exemplar.train import FileCheckpoint
from retouch.training.finetune.target import STATE, tune
from torch import nn

from tests import ROOT
from tests.helpers.datasets import png, square
from tests.training.finetune import tiny


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """There if anything ran."""
    return tmp_path / "it-ran"


def armed(path: Path, trace: Path, kind: str) -> str:
    """A file that would run code: as torch writes it, or a bare pickle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = {"state_dict": {"weight": torch.zeros(2)}, "callbacks": Bomb(trace), "decides": "{}"}
    if kind == "torch":
        torch.save(payload, path)
    else:
        path.write_bytes(pickle.dumps(payload))
    return str(path)


LOADERS: dict[str, Callable[[str], Any]] = {
    "unet": load_unet,
    "clip": lambda path: load_clip(str(Path(path).rename(Path(path).with_name("alone.net.ckpt")))),
    "a clip by its name": lambda path: load_clip(f"open_clip:ViT-B-16-quickgelu@{path}"),
    "arcface": load_arcface,
    "deeplab": load_segmenter,
    "inception": load_inception,
    "lpips": load_lpips,
    "face detector": FaceDetector.load,
    "exemplar networks, one file": lambda path: load_networks({"checkpoint": path}),
    "exemplar networks, our own": lambda path: load_networks(dict.fromkeys(OWN, path)),
    "networks to start from": lambda path: load_start({"checkpoint": path, "vision": path}, "stable_diffusion", 0),
    "a training's state": lambda path: read_state(Path(path)),  # Ray Train's is read by this, too
}
OWN = ("exemplar_vae", "exemplar_unet", "exemplar_encoder")


@pytest.mark.parametrize("kind", ["torch", "bare"])
@pytest.mark.parametrize("name", LOADERS)
def test_every_loader_refuses_a_pickle_that_calls_something(tmp_path: Path, trace: Path, name: str, kind: str) -> None:
    path = armed(tmp_path / "net.ckpt", trace, kind)
    (tmp_path / "net.json").write_text("{}")
    with pytest.raises(WeightsError) as error:
        LOADERS[name](path)
    assert "net.ckpt" in str(error.value)
    assert "\n" not in str(error.value)
    assert not trace.exists()


def test_a_pickle_under_the_name_of_a_safe_file_is_not_opened_as_one(tmp_path: Path, trace: Path) -> None:
    for name in ("net.safetensors", "judge.safetensors"):
        armed(tmp_path / name, trace, "bare")
    (tmp_path / "judge.json").write_text(json.dumps({"shapes": ["circle"], "colours": ["red"], "width": 8}))
    with pytest.raises(WeightsError):
        load_unet(str(tmp_path / "net.safetensors"))
    with pytest.raises(WeightsError):
        load_judge(tmp_path)
    assert not trace.exists()


class Scripted(nn.Module):
    """A module whose archive has a method that TorchScript calls when it opens it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.weight = state[0]
        self.training = state[1]
        torch.save(state[0], "it-ran")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_archive_that_runs_code_when_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Scripted()).save("clip.pt")
    with pytest.raises(WeightsError, match=r"clip\.pt was not opened: it has code that runs on opening"):
        load_clip("clip.pt")
    assert not Path("it-ran").exists()
    with contextlib.suppress(RuntimeError):
        torch.jit.load("clip.pt")  # what load_clip would do; whether it likes what came of it is another matter
    assert Path("it-ran").exists(), "the archive is harmless, so the test shows nothing"


@pytest.mark.parametrize("kind", ["torch", "bare"])
def test_a_fine_tunings_state_is_refused(tmp_path: Path, trace: Path, kind: str) -> None:
    task = tiny.task(tmp_path, tiny.write_networks(tmp_path / "files"), tiny.write_rows(tmp_path))
    armed(tmp_path / "out" / STATE / f"{task.name}.ckpt", trace, kind)
    with pytest.raises(WeightsError, match=r"cat\.ckpt .*; delete it to begin again"):
        tune(task, "cpu")
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["torch", "bare"])
def test_a_trainings_state_is_refused(tmp_path: Path, trace: Path, kind: str) -> None:
    armed(tmp_path / "state" / "local.ckpt", trace, kind)
    with pytest.raises(WeightsError, match=r"local\.ckpt .*; delete it to begin again"):
        FileCheckpoint(str(tmp_path)).load()
    assert not trace.exists()


@pytest.mark.parametrize("damage", ["cut", "list"])
def test_a_state_that_is_none_is_one_clear_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "local.ckpt"
    torch.save({"a": torch.zeros(9)} if damage == "cut" else [1], path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(WeightsError, match="delete it to begin again") as error:
        read_state(path)
    assert "\n" not in str(error.value)


def test_a_pickle_among_kept_latents_is_a_miss(tmp_path: Path, trace: Path) -> None:
    kept = StoredLatents(str(tmp_path), {})
    kept.put("a", np.zeros((1, 2), np.float32))
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(pickle.dumps(Bomb(trace)))
    assert kept.get("a") is None
    assert not trace.exists()


def test_a_pickle_as_a_metrics_state_is_refused(tmp_path: Path, trace: Path) -> None:
    with pytest.raises(ConfigError, match="holds no state of a metric"):
        metric_states.read(armed(tmp_path / "fid.safetensors", trace, "bare"))
    assert not trace.exists()


def test_a_pickle_in_a_list_of_ids_is_refused(tmp_path: Path, trace: Path) -> None:
    for name in ("GT_3500", "Ref_3500", "Mask_bbox_3500"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "id_list.npy", np.array([Bomb(trace)], object), allow_pickle=True)
    with pytest.raises(ManifestError, match="holds no array of ids"):
        cocoee(str(tmp_path), str(tmp_path / "out.parquet"))
    assert not trace.exists()


def test_a_manifests_column_is_never_taken_for_a_row_on_its_way(tmp_path: Path, trace: Path) -> None:
    bomb = pickle.dumps(Bomb(trace))
    table = pa.table({"image": [png(square())], ROW_COLUMN: pa.array([bomb], pa.large_binary())})
    pq.write_table(table, tmp_path / "rows.parquet")
    rows = with_fingerprints(reader.read(str(tmp_path / "rows.parquet")).table, {})
    decoded = stages.decode_block(rows, DecodeSpec(frozenset()))
    assert [sample.failure for sample in unpack_rows(decoded)] == [None]
    assert not trace.exists()


def test_the_command_says_it_in_one_line_and_runs_none_of_it(tmp_path: Path, trace: Path) -> None:
    weights = armed(tmp_path / "unet.pt", trace, "torch")
    changes = [f"output={tmp_path / 'out'}", f"editor.weights={{family: embedded:shapes, unet: {weights}}}"]
    command = [sys.executable, "-P", "-m", "retouch", "run", "jobs/quickstart.yaml"]
    command += ["--limit", "1", "--executor", "local"]
    command += [part for change in changes for part in ("--set", change)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "unet.pt was not opened: its pickle calls" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not trace.exists()


def test_no_line_of_the_package_opens_a_pickle_unrestricted() -> None:
    found: dict[str, list[tuple[str, ast.Call]]] = {}
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                place = path.relative_to(ROOT).as_posix()
                found.setdefault(ast.unparse(node.func), []).append((place, node))

    def calls_of(name: str) -> list[tuple[str, ast.Call]]:
        return found.get(name, [])

    for name in ("torch.load", "torch.jit.load", "pickle.loads", "np.load"):
        assert calls_of(name), f"{name} is not called any more: this test looks for the wrong name"
    for path, call in calls_of("torch.load"):
        words = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert words.get("weights_only") == "True", path
    for path, call in calls_of("np.load"):
        assert "allow_pickle=True" not in ast.unparse(call), path
    assert [path for path, _ in calls_of("pickle.loads")] == [
        "pipeline/retouch/execution/outcomes.py"
    ]  # blocks of this run alone
    assert [path for path, _ in calls_of("torch.jit.load")] == ["pipeline/retouch/models/clip.py"]
    for name in ("pickle.load", "pickle.Unpickler", "yaml.load", "yaml.unsafe_load", "eval", "exec", "joblib.load"):
        assert not calls_of(name), name
