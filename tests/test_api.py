"""Retouch from Python gives what the command gives: the same pixels, the same refusals."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import retouch
import yaml
from PIL import Image
from retouch.errors import ConfigError, EditError, LoadError, OutputError, PluginError
from retouch.imaging import codec
from retouch.schema import Batch, EditResult

from tests import ROOT
from tests.helpers.datasets import painter_job, picture, png, square, write_dataset
from tests.helpers.painters import Painter
from tests.helpers.slow import SlowPainter

pytestmark = pytest.mark.slow

SHORT = {"preset": "balanced", "timesteps": 4, "skip_timesteps": 1, "clip_guidance_lambda": 300}


@pytest.fixture(scope="module")
def painter() -> retouch.LoadedEditor:
    return retouch.load_editor(
        "tests.helpers.painters:Painter", metrics=["tests.helpers.painters:Redness"], batch_size=4
    )


def test_importing_the_package_costs_nothing_and_knows_what_it_offers() -> None:
    code = (
        "import sys, retouch; assert set(retouch.__all__) <= set(dir(retouch));"
        "sys.exit(bool({'torch', 'ray', 'pyarrow', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert all(callable(getattr(retouch, name)) for name in retouch.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'load_edtior'"):
        retouch.load_edtior  # noqa: B018


def test_loading_an_editor_leaves_ray_out() -> None:
    code = "import sys, retouch; retouch.load_editor('tests.helpers.painters:Painter'); sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_row_of_a_run_comes_out_here_byte_for_byte(tmp_path: Path) -> None:
    changes = {f"editor.params.{name}": value for name, value in SHORT.items()}
    done = retouch.run_job(
        str(ROOT / "jobs/quickstart.yaml"),
        {"manifest": str(ROOT / "manifests/shapes.parquet"), "output": str(tmp_path / "out"), "seed": 5, **changes},
        executor="local",
        limit=2,
    )
    assert (done.exit_code, done.statuses["success"]) == (0, 2)
    row = retouch.read_results(done.output).to_pylist()[1]
    requests = pq.read_table(ROOT / "manifests/shapes.parquet").slice(0, 2).to_pylist()
    request = next(found for found in requests if found["key"] == row["key"])
    editor = retouch.load_editor("blended_diffusion", "embedded:shapes", **SHORT)
    image = codec.decode_image(request["image"]["bytes"]).pixels
    edited = editor(image, request["mask"]["bytes"], request["prompt"], seed=5, candidates=4, key=row["key"])
    edited.save(str(tmp_path / "edit.png"))
    assert hashlib.sha256((tmp_path / "edit.png").read_bytes()).hexdigest() == row["sha256"]
    assert (edited.seed, len(edited.candidates)) == (row["seed"], 4)
    assert np.array_equal(retouch.read_edited(done.output, row["key"]).image, edited.image)
    with pytest.raises(LoadError, match="the exemplar cell is empty"):  # as a row of a run would, before any pass
        editor(image, guide="exemplar")


@pytest.mark.parametrize("size", [(20, 24), (16, 16), (5, 90), (70, 50)])
def test_an_image_of_any_size_changes_inside_the_mask_alone(painter: Any, size: tuple[int, int]) -> None:
    image, mask = picture(2, *size), np.zeros(size, bool)
    mask[1:4, 2:5] = True
    edited = painter(image, mask, "a red circle")
    assert np.array_equal(edited.image[~mask], image[~mask])
    assert (edited.image[mask] != image[mask]).any()
    assert np.array_equal(edited.source, image)


def test_arrays_pillow_images_paths_and_bytes_are_one_and_the_same(painter: Any, tmp_path: Path) -> None:
    mask = square() == 255
    (tmp_path / "a.png").write_bytes(png(picture(0)))
    wanted = painter(picture(0), mask).image
    for image in (Image.fromarray(picture(0)), tmp_path / "a.png", str(tmp_path / "a.png"), png(picture(0))):
        for how in ({"mask": mask}, {"mask": Image.fromarray(mask)}, {"bbox": (6, 4, 16, 12)}):
            assert np.array_equal(painter(image, **how).image, wanted)


def test_candidates_come_ranked_with_their_scores_and_the_seed_and_the_key_decide_them(painter: Any) -> None:
    edited = painter(picture(0), square(), candidates=5)
    distances = [candidate.scores["distance"] for candidate in edited.candidates]
    assert distances == sorted(distances)
    assert len(distances) == 5
    assert edited.scores["redness"] > 0
    again = painter(picture(0), square(), candidates=5)
    assert [candidate.seed for candidate in again.candidates] == [candidate.seed for candidate in edited.candidates]
    others = [painter(picture(0), square(), seed=1), painter(picture(0), square(), key="other")]
    assert len({other.seed for other in [*others, painter(picture(0), square())]}) == 3


def test_threads_share_an_editor_and_each_gets_what_it_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    editor, begun = retouch.load_editor("tests.helpers.slow:SlowPainter", batch_size=2), threading.Event()

    def edit_batch(self: Painter, batch: Batch) -> list[EditResult]:
        begun.set()
        return slowly(self, batch)

    slowly = SlowPainter.edit_batch
    monkeypatch.setattr(SlowPainter, "edit_batch", edit_batch)

    def numbers(candidates: int) -> list[int]:
        return sorted(one.number for one in editor(picture(candidates), candidates=candidates).candidates)

    with ThreadPoolExecutor(2) as threads:
        four = threads.submit(numbers, 4)
        assert begun.wait(60)
        one = threads.submit(numbers, 1)
        assert (four.result(), one.result()) == ([0, 1, 2, 3], [0])


def test_params_of_the_editor_and_of_one_image_reach_it(painter: Any) -> None:
    grey = retouch.load_editor("tests.helpers.painters:Painter", grey=7, size=20)
    assert grey.image_size == 20
    mask = square() == 255
    assert set(grey(picture(0), mask).image[mask].ravel()) == {7}
    assert set(grey(picture(0), mask, grey=9).image[mask].ravel()) == {9}
    assert "grey=7" in repr(grey)


def test_masks_may_be_read_the_other_way_round() -> None:
    editor = retouch.load_editor("tests.helpers.painters:Painter", mask={"invert": True})
    mask = square() == 255
    edited = editor(picture(0), mask)
    assert np.array_equal(edited.mask, ~mask)
    assert np.array_equal(edited.image[mask], picture(0)[mask])


def test_what_cannot_be_is_refused_in_one_line(painter: Any) -> None:
    for kind, said, call in (
        (LoadError, "the mask is black everywhere", lambda: painter(picture(0), np.zeros((20, 24), bool))),
        (LoadError, "bbox .* lies outside", lambda: painter(picture(0), bbox=(90, 90, 99, 99))),
        (LoadError, "seed -1 is negative", lambda: painter(picture(0), seed=-1)),
        (LoadError, "no such file|No such file|no object", lambda: painter("not-there.png")),
        (EditError, "this prompt cannot be edited", lambda: painter(picture(0), prompt="raise")),
        (EditError, "gave 0 results", lambda: painter(picture(0), prompt="short")),
        (ConfigError, "candidates: got 0", lambda: painter(picture(0), candidates=0)),
        (ConfigError, "params.gray.*grey", lambda: painter(picture(0), gray=3)),
        (ConfigError, "params.gray.*grey", lambda: retouch.load_editor("tests.helpers.painters:Painter", gray=3)),
        (
            ConfigError,
            "load_editor: ray.batch_size",
            lambda: retouch.load_editor("tests.helpers.painters:Painter", batch_size=0),
        ),
        (PluginError, "no editor named 'blended'", lambda: retouch.load_editor("blended")),
        (OutputError, "holds no results", lambda: retouch.read_results("nowhere")),
        (OutputError, "holds no results", lambda: retouch.results_dataset("nowhere")),
        (
            ConfigError,
            "run_job takes kind edit",
            lambda: retouch.run_job(str(ROOT / "jobs/evaluate.yaml")),
        ),
    ):
        with pytest.raises(kind, match=said) as refused:
            call()  # type: ignore[no-untyped-call]
        assert "\n" not in str(refused.value)


def test_a_job_is_a_file_a_mapping_or_a_job_and_its_results_a_table_or_a_dataset(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 4))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    tables = []
    for number, given in enumerate((str(tmp_path / "job.yaml"), job.model_dump(mode="json"), job)):
        output = str(tmp_path / f"out-{number}")
        done = retouch.run_job(given, {"output": output, "editor.params": {"grey": 3}}, executor="local", limit=3)
        assert (done.rows, done.output) == (3, output)
        tables.append(retouch.read_results(output, ["key", "sha256"]))
        assert retouch.results_dataset(output).to_table(columns=["key", "sha256"]).sort_by("key") == tables[-1]
    assert tables[0] == tables[1] == tables[2]
    assert (
        retouch.run_job(job, {"output": str(tmp_path / "out-0"), "editor.params.grey": 3}, executor="local").rows == 4
    )


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for name in ("jobs", "manifests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), known)
    edited = known["edited"]
    assert np.array_equal(edited.image[~edited.mask], edited.source[~edited.mask])
    assert (tmp_path / "edited.png").exists()
    assert known["table"].num_rows == 4
