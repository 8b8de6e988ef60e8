"""A row can be run again from its run's record, and is compared with its recorded result."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from retouch import storage
from retouch.cli.app import main
from retouch.errors import ConfigError, ManifestError, OutputError, RetouchError, StopRun
from retouch.execution.edit import run
from retouch.execution.rerun import DIFFERENT, IDENTICAL, TOLERANCE, WITHIN_TOLERANCE, rerun
from retouch.jobs.config import EditJob
from retouch.outputs import results
from rich.console import Console

from tests.helpers.datasets import painter_job, picture, png, write_dataset
from tests.helpers.painters import Painter
from tests.test_quickstart import short_job

pytestmark = pytest.mark.slow

KEY = "row-001"


def finished(job: EditJob, **options: Any) -> str:
    run(job, console=Console(file=io.StringIO()), **{"executor": "local", **options})
    return job.output


@pytest.fixture
def output(tmp_path: Path) -> str:
    """A run of rows that succeed and rows that fail, two candidates kept of each."""
    prompts = {3: "raise"}
    images = [f"files/{number}.png" for number in range(4)] + ["files/none.png"]
    manifest = write_dataset(tmp_path, 5, prompts, image=images)
    return finished(painter_job(tmp_path, manifest, candidates=3, keep=2, max_failure_rate=1.0))


def row_of(output: str, key: str = KEY) -> dict[str, Any]:
    (row,) = [row for row in results.read(output).to_pylist() if row["key"] == key]
    return row


def image_of(output: str, rank: int = 0) -> Path:
    row = row_of(output)
    return Path(output) / [row, *row["runners_up"]][rank]["output"]


def changed_record(output: str, **job: Any) -> None:
    """Edit run.json."""
    path = Path(output) / "run.json"
    record = json.loads(path.read_text())
    record["job"] |= job
    path.write_text(json.dumps(record))


def everything(folder: str) -> dict[str, tuple[int, bytes]]:
    return {file: (Path(file).stat().st_mtime_ns, Path(file).read_bytes()) for file in storage.list_files(folder)}


def test_every_row_of_a_run_is_reproduced_and_the_output_stays_as_it_is(output: str) -> None:
    before = everything(output)
    for row in results.read(output).to_pylist():
        again = rerun(output, row["key"])
        assert (again.verdict, again.changes) == (IDENTICAL, ()), again.text()
        if row["output"]:
            assert again.image == (Path(output) / row["output"]).read_bytes()
            assert row["sha256"] in again.text()
        else:
            assert again.image is None
            assert f"{row['status']} ({row['error_type']}) again" in again.text()
    assert everything(output) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"sink": "tar"},
        {"image_format": "jpeg"},
        {"quality": {"mode": "retry", "thresholds": {"redness": 100}}, "max_failure_rate": 1.0},
        {"quality": {"mode": "reject", "thresholds": {"redness": 1e9}}, "max_failure_rate": 1.0},
    ],
    ids=["tar", "jpeg", "retry", "reject"],
)
def test_rows_are_reproduced_whatever_sink_and_quality_gate_a_job_uses(tmp_path: Path, changes: dict[str, Any]) -> None:
    output = finished(painter_job(tmp_path, write_dataset(tmp_path, 3), **changes))
    for number in range(3):
        assert rerun(output, f"row-{number:03d}").verdict == IDENTICAL


@pytest.mark.parametrize(
    ("levels", "verdict"), [(0, WITHIN_TOLERANCE), (TOLERANCE, WITHIN_TOLERANCE), (TOLERANCE + 1, DIFFERENT)]
)
@pytest.mark.parametrize("rank", [0, 1])
def test_an_image_that_was_replaced_is_measured(output: str, levels: int, verdict: str, rank: int) -> None:
    file = image_of(output, rank)
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    pixels[3, 5] += np.where(pixels[3, 5] > 128, -levels, levels)
    Image.fromarray(pixels.astype(np.uint8)).save(file, compress_level=9)
    again = rerun(output, KEY)
    assert again.verdict == verdict
    assert f"{int(levels > 0)} of 480 pixels differ, by at most {levels} of 255 levels" in again.text()
    assert f"{file.relative_to(output)} differs from its recorded sha256" in again.text()
    assert again.reproduced == (verdict != DIFFERENT)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "is missing in the output"),
        (b"none", "cannot be read"),
        (png(picture(1, 8, 8)), "8x8 of 3 and 24x20 of 3"),
    ],
)
def test_a_missing_damaged_or_resized_image_is_different(output: str, data: bytes | None, text: str) -> None:
    if data is None:
        image_of(output).unlink()
    else:
        image_of(output).write_bytes(data)
    again = rerun(output, KEY)
    assert again.verdict == DIFFERENT
    assert text in again.text()


@pytest.mark.parametrize("recorded", [True, False])
def test_another_seed_gives_another_image_and_is_named(output: str, recorded: bool) -> None:
    if recorded:
        changed_record(output, seed=5)
    again = rerun(output, KEY, () if recorded else ("seed=5",))
    assert again.verdict == DIFFERENT
    assert "seed: 0 -> 5" in again.changes
    assert not [change for change in again.changes if "manifest" in change]


def rewritten(folder: Path, **columns: list[Any]) -> None:
    """The manifest with other columns."""
    table = pq.read_table(folder / "manifest.parquet")
    for name, cells in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(cells))
    pq.write_table(table, folder / "manifest.parquet")


def test_a_row_that_changed_in_the_manifest_is_named(output: str, tmp_path: Path) -> None:
    rewritten(tmp_path, prompt=["a", "b", "c", "raise", "e"])
    again = rerun(output, KEY)
    assert again.changes == ("the manifest's row, or a file that it names",)
    assert again.verdict == IDENTICAL  # the painter does not look at the prompt
    assert again.text().splitlines()[1:] == ["changed since the run: the manifest's row, or a file that it names"]


def test_a_source_that_changed_is_named_and_shown(output: str, tmp_path: Path) -> None:
    (tmp_path / "files" / "1.png").write_bytes(png(picture(77)))
    again = rerun(output, KEY)
    assert again.changes == ("the manifest's row, or a file that it names",)
    assert again.verdict == DIFFERENT


def test_a_row_that_failed_and_now_succeeds_is_different(output: str, tmp_path: Path) -> None:
    (tmp_path / "files" / "none.png").write_bytes(png(picture(4)))
    again = rerun(output, "row-004")
    assert again.verdict == DIFFERENT
    assert "failed_to_load (ObjectMissing) in the run, success now" in again.text()
    (tmp_path / "files" / "none.png").write_bytes(b"no image")
    again = rerun(output, "row-004")
    assert "failed_to_load (ObjectMissing) in the run, failed_to_load (LoadError) now: " in again.text()


def test_weights_an_editor_and_a_package_that_changed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.bin").write_bytes(b"one")
    editor = {"name": "tests.helpers.painters:Painter", "weights": {"unet": str(tmp_path / "net.bin")}}
    output = finished(painter_job(tmp_path, write_dataset(tmp_path, 2), editor=editor))
    (tmp_path / "net.bin").write_bytes(b"other")
    monkeypatch.setattr(Painter, "version", "2")
    record = json.loads((Path(output) / "run.json").read_text())
    record["retouch"], record["versions"]["torch"] = "0.0.0", "1.0"
    (Path(output) / "run.json").write_text(json.dumps(record))
    weights, version, package, torch = rerun(output, KEY).changes
    assert weights.startswith("weights_sha256.unet: ")
    assert version == "editor tests.helpers.painters:Painter: version 1 -> 2"
    assert package.startswith("retouch 0.0.0 -> ")
    assert torch.startswith("torch 1.0 -> ")


def test_addresses_with_credentials_must_be_passed_again(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 2)
    signed = manifest.with_name("manifest.parquet?token=secret")
    manifest.rename(signed)
    output = finished(painter_job(tmp_path, f"local://{signed}"))
    with pytest.raises(ConfigError, match=r"pass the address of manifest again, with --set manifest="):
        rerun(output, KEY)
    again = rerun(output, KEY, [f"manifest=local://{signed}"])
    assert (again.verdict, again.changes) == (IDENTICAL, ())


def test_what_cannot_be_run_again_stops_with_one_line(output: str, tmp_path: Path) -> None:
    def refused(key: str, kind: type[RetouchError], where: str = output) -> str:
        with pytest.raises(kind) as error:
            rerun(where, key)
        assert isinstance(error.value, StopRun)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "has no row 'none'; the keys are in" in refused("none", OutputError)
    assert "holds no run" in refused(KEY, OutputError, str(tmp_path / "nowhere"))
    results.write_requests(output, pa.table({"key": ["late"], "fingerprint": ["f"]}))
    assert "has no result for row 'late' yet" in refused("late", OutputError)
    pq.write_table(pq.read_table(tmp_path / "manifest.parquet").slice(2), tmp_path / "manifest.parquet")
    assert f"no longer has row '{KEY}'" in refused(KEY, ManifestError)


def test_the_command_exits_with_0_1_and_2_and_saves_the_image(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["row", *arguments])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out + err

    image = str(tmp_path / "again.png")
    assert ended(output, KEY, "--save", image)[0] == 0
    assert Path(image).read_bytes() == image_of(output).read_bytes()
    code, text = ended(output, "row-003", "--save", str(tmp_path / "none.png"))
    assert (code, (tmp_path / "none.png").exists()) == (0, False)
    assert "no image saved: the row failed again" in text
    code, text = ended(output, KEY, "--set", "seed=9")
    assert code == 1
    assert text.startswith(f"{KEY}: different: ")
    code, text = ended(output, "none")
    assert code == 2
    assert text.count("\n") == 1


def quickstart(folder: Path, rows: int) -> EditJob:
    pq.write_table(pq.read_table("manifests/shapes.parquet").slice(0, rows), folder / "rows.parquet")
    return short_job(str(folder / "out"), str(folder / "rows.parquet"), actors=2, rows_per_block=2)


@pytest.mark.slow
def test_a_row_of_the_quickstart_is_bit_for_bit_the_same_alone_as_in_a_batch(tmp_path: Path) -> None:
    output = finished(quickstart(tmp_path, 2))
    again = rerun(output, results.read(output, ["key"])["key"][0].as_py())
    assert (again.verdict, again.changes) == (IDENTICAL, ()), again.text()


@pytest.mark.ray
@pytest.mark.slow
def test_rows_that_ray_edited_are_reproduced_bit_for_bit_in_this_process(tmp_path: Path) -> None:
    output = finished(quickstart(tmp_path, 3), executor="ray")
    for key in results.read(output, ["key"])["key"].to_pylist():
        again = rerun(output, key)
        assert (again.verdict, again.changes) == (IDENTICAL, ()), again.text()
