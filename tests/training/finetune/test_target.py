"""A target from its manifest to its files: what stands there, what is refused, and that a stop costs nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from retouch.errors import ConfigError, ManifestError, OutputError, StopRun, WeightsError
from retouch.models import unet
from retouch.models.unet import load_unet
from retouch.training.finetune import target
from retouch.training.finetune.target import TargetTask, tune
from retouch.training.finetune.texts import Texts
from retouch.training.finetune.trainer import Trainer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.helpers.datasets import png, square
from tests.helpers.golden_set import adm_config, ddpm_config, golden, weights_of
from tests.training.finetune.tiny import BATCHES, PARAMS, ROWS, job, task, write_networks, write_rows

QUICK = {"batch": 1, "views": 1, "masked_share": 0, "n_inv": 2, "n_train": 2, "n_test": 2, "test_images": 0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_rows(folder)
    return folder


@pytest.fixture(scope="module")
def files(home: Path) -> dict[str, str]:
    return write_networks(home / "networks")


@pytest.fixture(scope="module")
def whole(home: Path, files: dict[str, str]) -> TargetTask:
    """Tuned in one go."""
    found = task(home, files, home / "manifest.parquet", output=str(home / "whole"))
    tune(found, "cpu")
    return found


def sha256(address: str | Path) -> str:
    return hashlib.sha256(Path(address).read_bytes()).hexdigest()


def sidecar(found: TargetTask, suffix: str) -> Path:
    return Path(found.file.removesuffix(".safetensors") + suffix)


def state_of(found: TargetTask) -> Path:
    return Path(found.output) / "state" / f"{found.name}.ckpt"


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file."""
    with Image.open(path) as image:
        return image.size


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has a tuning stop right after a batch, as Ctrl-C would have it."""
    real = target._TargetTraining._after_batch

    def stop_after(batch: int) -> None:
        def after(self: Any, trainer: Trainer) -> None:
            real(self, trainer)
            if trainer.progress.update == batch:
                raise KeyboardInterrupt

        monkeypatch.setattr(target._TargetTraining, "_after_batch", after)

    return stop_after


def stopped(found: TargetTask, stopping: Callable[[int], None], batch: int) -> None:
    stopping(batch)
    with pytest.raises(KeyboardInterrupt):
        tune(found, "cpu")


def test_a_tuned_network_stands_there_with_what_made_it_a_sheet_and_its_curves(
    whole: TargetTask, files: dict[str, str]
) -> None:
    record = json.loads(sidecar(whole, ".json").read_text())
    assert record["sha256"] == sha256(whole.file)
    assert record["texts"] == ["red -> cat"]
    assert record["decides"]["params"]["t_0"] == PARAMS["t_0"]
    assert record["decides"]["weights_sha256"]["unet"] == sha256(files["unet"])
    curves = pq.read_table(sidecar(whole, "-losses.parquet")).to_pylist()
    assert [curve["batch"] for curve in curves] == list(range(BATCHES))
    assert record["last"] == curves[-1]
    width, height = picture_size(sidecar(whole, "-sheet.png"))
    assert width < height  # two images in three rows
    assert picture_size(sidecar(whole, "-curves.png")) > (0, 0)
    assert not state_of(whole).exists()


def test_a_tuned_network_loads_as_its_source_does_and_is_another(whole: TargetTask, files: dict[str, str]) -> None:
    source, tuned = load_unet(files["unet"]), load_unet(whole.file)
    assert (tuned.image_size, tuned.schedule) == (source.image_size, source.schedule)
    ours, theirs = tuned.module.state_dict(), source.module.state_dict()
    assert ours.keys() == theirs.keys()
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)
    assert load_file(whole.file).keys() == load_file(files["unet"]).keys()


@pytest.mark.parametrize("batch", [1, 4, 7])
def test_stopped_between_two_saves_or_at_one_it_ends_with_the_same_file(
    home: Path, files: dict[str, str], whole: TargetTask, tmp_path: Path,
    stopping: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, batch: int,
) -> None:  # fmt: skip
    found = task(tmp_path, files, home / "manifest.parquet")
    stopped(found, stopping, batch)
    assert not Path(found.file).exists()
    assert state_of(found).exists() == (batch >= PARAMS["save_every"])
    monkeypatch.undo()
    lines: list[str] = []
    # How often a state is saved decides nothing.
    tune(task(tmp_path, files, home / "manifest.parquet", params={"save_every": 3}), "cpu", lines.append)
    saved = batch // PARAMS["save_every"] * PARAMS["save_every"]
    assert (f"cat: resuming at batch {saved} of {BATCHES}" in lines) == (saved > 0)
    assert sha256(found.file) == sha256(whole.file)
    for suffix in (".json", "-sheet.png", "-losses.parquet"):
        assert sidecar(found, suffix).read_bytes() == sidecar(whole, suffix).read_bytes()
    assert not state_of(found).exists()


@pytest.mark.long
def test_a_command_that_is_killed_and_given_again_ends_with_the_same_file(
    home: Path, files: dict[str, str], tmp_path: Path
) -> None:
    many = {**PARAMS, **QUICK, "images": 3, "iterations": 6, "save_every": 1}
    asked = job(tmp_path, files, home / "manifest.parquet", params=many)
    asked["targets"] = asked["targets"][:1]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(asked))
    command = [sys.executable, "-P", "-m", "retouch", "run", "job.yaml", "--executor", "local"]
    how: dict[str, Any] = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(Path.cwd())}, "text": True}
    once = task(tmp_path, files, home / "manifest.parquet", output=str(tmp_path / "once"), params=many)
    killed = task(tmp_path, files, home / "manifest.parquet")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **how) as first:
        for _ in _until(state_of(killed).exists):
            assert first.poll() is None, "it ended before it could be killed"
        first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert not sidecar(killed, ".json").exists()
    again = subprocess.run(command, capture_output=True, check=False, **how)
    assert again.returncode == 0, again.stderr
    assert "cat: resuming at batch" in again.stderr
    assert "targets: 1 done" in again.stdout
    tune(once, "cpu")
    assert sha256(killed.file) == sha256(once.file)


def _until(done: Callable[[], bool], seconds: float = 300) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "no state was saved in time"
        yield
        time.sleep(0.005)


def test_a_finished_target_is_left_as_it_is(home: Path, files: dict[str, str], whole: TargetTask) -> None:
    before = {path: (path.stat().st_mtime_ns, sha256(path)) for path in Path(whole.output).rglob("*.*")}
    state_of(whole).parent.mkdir(exist_ok=True)
    state_of(whole).write_bytes(b"left by a kill after the record")
    lines: list[str] = []
    record = tune(whole, "cpu", lines.append)
    assert lines == ["cat: already done"]
    assert record == json.loads(sidecar(whole, ".json").read_text())
    assert {path: (path.stat().st_mtime_ns, sha256(path)) for path in Path(whole.output).rglob("*.*")} == before


def test_a_network_that_was_taken_away_is_made_again(home: Path, files: dict[str, str], whole: TargetTask) -> None:
    digest = sha256(whole.file)
    Path(whole.file).unlink()
    tune(whole, "cpu")
    assert sha256(whole.file) == digest


@pytest.mark.parametrize("is_finished", [True, False], ids=["file", "state"])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 4}, "seed"),
        ({"params": {"t_0": 300}}, "params"),
        ({"texts": Texts("red", "at")}, "texts"),
        ({"fit": "resize"}, "fit"),
    ],
)
def test_another_trainings_file_or_state_is_refused_by_name(
    home: Path, files: dict[str, str], whole: TargetTask, tmp_path: Path,
    stopping: Callable[[int], None], is_finished: bool, changes: dict[str, Any], named: str,
) -> None:  # fmt: skip
    found = whole if is_finished else task(tmp_path, files, home / "manifest.parquet")
    if not is_finished:
        stopped(found, stopping, 2)
    kept = sha256(found.file if is_finished else state_of(found))
    other = task(tmp_path, files, home / "manifest.parquet", output=found.output, **changes)
    with pytest.raises(OutputError) as error:
        tune(other, "cpu")
    assert f"{found.output} holds another training of cat (it differs in {named})" in str(error.value)
    assert "\n" not in str(error.value)
    assert sha256(found.file if is_finished else state_of(found)) == kept


def test_other_images_or_other_networks_are_another_training(
    home: Path, files: dict[str, str], whole: TargetTask, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path)
    (tmp_path / "files" / "3.png").write_bytes((tmp_path / "files" / "4.png").read_bytes())
    with pytest.raises(OutputError, match=r"differs in rows\)"):
        tune(task(home, files, rows, output=whole.output), "cpu")
    moved = write_networks(tmp_path / "networks")
    assert tune(task(home, moved, home / "manifest.parquet", output=whole.output), "cpu")["name"] == "cat"
    changed = {name: value + 0.01 for name, value in load_file(moved["unet"]).items()}
    save_file(changed, moved["unet"])
    with pytest.raises(OutputError, match=r"differs in weights_sha256\)"):
        tune(task(home, moved, home / "manifest.parquet", output=whole.output), "cpu")


def test_what_clip_is_told_of_its_images_is_part_of_a_training(home: Path, whole: TargetTask, tmp_path: Path) -> None:
    moved = write_networks(tmp_path / "networks")
    card = Path(moved["clip"]).with_suffix(".json")
    card.write_text(json.dumps({**json.loads(card.read_text()), "mean": [0.1, 0.1, 0.1]}))
    with pytest.raises(OutputError, match=r"differs in weights_sha256\)"):
        tune(task(home, moved, home / "manifest.parquet", output=whole.output), "cpu")


def broken(folder: Path) -> Path:
    (folder / "files" / "3.png").write_bytes(b"no image")
    return folder / "manifest.parquet"


def gone(folder: Path) -> Path:
    (folder / "files" / "3.png").unlink()
    return folder / "manifest.parquet"


def black(folder: Path) -> Path:
    (folder / "files" / "black.png").write_bytes(png(0 * square()))
    return write_rows(folder, mask=["files/mask.png"] * 3 + ["files/black.png"] + ["files/mask.png"] * 3)


def without_text(folder: Path) -> Path:
    return write_rows(folder, prompt=["cat"] * 3 + [" "] + ["cat"] * 3)


def few(folder: Path) -> Path:
    return write_rows(folder, 4)


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (broken, "cannot train on row 'row-003'"),
        (gone, "cannot train on row 'row-003'"),
        (black, "cannot train on row 'row-003': the mask is black"),
        (without_text, "row 'row-003' lacks source_prompt or prompt; give the target source_prompt and prompt"),
        (few, "trains on 5 images and its manifest has 4; give more rows"),
    ],
)
def test_rows_that_cannot_be_learned_from_stop_it_with_the_rows_key(
    files: dict[str, str], tmp_path: Path, spoilt: Callable[[Path], Path], message: str
) -> None:
    write_rows(tmp_path)
    with pytest.raises(ManifestError) as error:
        tune(task(tmp_path, files, spoilt(tmp_path), texts=None), "cpu")
    assert message in str(error.value)
    assert "target cat" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_rows_without_columns_of_text_are_asked_for_them(files: dict[str, str], tmp_path: Path) -> None:
    rows = write_rows(tmp_path)
    pq.write_table(pq.read_table(rows).drop_columns(["source_prompt"]), rows)
    with pytest.raises(ManifestError, match="row 'row-000' lacks source_prompt"):
        tune(task(tmp_path, files, rows, texts=None), "cpu")
    tune(task(tmp_path, files, rows, params={"iterations": 1}), "cpu")  # the target's own texts serve


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"texts": Texts("red", "red")}, ConfigError, "both texts are the same to CLIP"),
        ({"texts": Texts("red", "a very long text")}, ConfigError, "give shorter texts, or templates: none"),
        ({"params": {"templates": "imagenet"}}, ConfigError, "give shorter texts, or templates: none"),
        ({"params": {"identity_weight": 1.0}}, WeightsError, "needs weights for arcface"),
        ({"params": {"t_0": 0}}, ConfigError, "t_0 is 0"),
        ({"fit": "face"}, ManifestError, "cannot train on row 'row-000': the row has no landmarks"),
    ],
)
def test_a_target_that_cannot_be_reached_is_one_line(
    home: Path, files: dict[str, str], tmp_path: Path, changes: dict[str, Any], kind: type[StopRun], message: str
) -> None:
    with pytest.raises(kind) as error:
        tune(task(tmp_path, files, home / "manifest.parquet", **changes), "cpu")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["unet", "clip"])
def test_a_network_that_is_not_named_is_asked_for(
    home: Path, files: dict[str, str], tmp_path: Path, missing: str
) -> None:
    named = {role: file for role, file in files.items() if role != missing}
    with pytest.raises(WeightsError, match=f"needs weights for {missing}; name them in the job"):
        tune(task(tmp_path, named, home / "manifest.parquet"), "cpu")


def test_each_row_may_bring_its_own_texts(files: dict[str, str], tmp_path: Path) -> None:
    rows = write_rows(tmp_path, prompt=["cat", "at"] * 3 + ["cat"])
    record = tune(task(tmp_path, files, rows, texts=None, params={"iterations": 1, "test_images": 0}), "cpu")
    assert record["texts"] == ["red -> at", "red -> cat"]
    # Those that were learned from: five.
    assert picture_size(tmp_path / "out" / "networks" / "cat-sheet.png")[0] // 96 == 5


def test_a_halved_file_is_the_whole_one_rounded(
    home: Path, files: dict[str, str], whole: TargetTask, tmp_path: Path
) -> None:
    found = task(tmp_path, files, home / "manifest.parquet", params={"dtype": "float16"})
    tune(found, "cpu")
    half, full = load_file(found.file), load_file(whole.file)
    assert all(torch.equal(value, full[name].half()) for name, value in half.items())
    assert next(iter(load_unet(found.file).module.parameters())).dtype == torch.float32


PUBLISHED: Mapping[str, tuple[str, str]] = {  # golden file: the one whose weights it has
    "iddpm_afhq.safetensors": ("adm_uncond.safetensors", ".pt"),
    "adm_classcond.safetensors": ("adm_classcond.safetensors", ".safetensors"),
    "ddpm_celebahq.safetensors": ("ddpm_celebahq.safetensors", ".ckpt"),
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("mode", ["full", "efficient"])
def test_a_published_layout_is_tuned_into_the_same_layout_key_by_key(
    home: Path, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mode: str
) -> None:
    donor, suffix = PUBLISHED[name]
    config = golden(name)[1]["config"]
    state = weights_of(golden("adm_uncond.safetensors")[0]) if "ch_mult" not in config else {}
    state |= weights_of(golden(donor)[0])
    if "ch_mult" in config:
        monkeypatch.setattr(unet, "DDPM256", ddpm_config(config))  # the golden set's is a smaller one of this make
    else:
        monkeypatch.setattr(unet, "KNOWN_ADM", {"a small one": adm_config(config)})
    pretrained = tmp_path / f"published{suffix}"
    save_file(state, pretrained) if suffix == ".safetensors" else torch.save(state, pretrained)
    named = {"unet": str(pretrained), "clip": files["clip"]}
    few_steps = {**QUICK, "mode": mode, "images": 2, "iterations": 1}
    found = task(tmp_path, named, home / "manifest.parquet", params=few_steps)
    tune(found, "cpu")
    with safe_open(found.file, "pt") as tuned:
        assert {key: tuple(tuned.get_slice(key).get_shape()) for key in tuned.keys()} == {  # noqa: SIM118
            key: tuple(value.shape) for key, value in state.items()
        }
    before, after = (load_unet(str(path)).module.state_dict() for path in (pretrained, found.file))
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    labels = {key for key in before if key.startswith("label_embedding")}
    assert not moved & labels  # no label is ever given
    assert len(moved) > 0.8 * len(before)


def test_the_sheet_shows_the_rows_that_were_not_learned_from(home: Path, whole: TargetTask) -> None:
    assert picture_size(sidecar(whole, "-sheet.png"))[0] // 96 == ROWS - PARAMS["images"]
