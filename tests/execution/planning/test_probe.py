"""A probe runs a job's rows through its executor, and leaves no files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from retouch import storage
from retouch.errors import ConfigError, WeightsError
from retouch.execution.plan import make_plan
from retouch.execution.planning.forecast import Measured
from retouch.execution.planning.probe import PASSES_PER_ACTOR, _temporary_output, probe, rows_per_pass
from retouch.execution.planning.strata import stratify
from retouch.jobs.config import EditJob

from tests.helpers.datasets import painter_job, write_dataset


def probed(job: EditJob, **options: Any) -> Measured:
    plan = make_plan(job)
    return probe(plan, stratify(plan.todo, range(plan.left)), **{"executor": "local", **options})


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_it_measures_every_stage_and_writes_nothing_to_the_output(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 40), candidates=2)
    before = tree(tmp_path)
    found = probed(job)
    assert tree(tmp_path) == before
    assert (found.actors, found.pool, found.each, found.failed) == (1, 1, 1.0, 0)
    assert found.rows == (1 + PASSES_PER_ACTOR) * rows_per_pass(make_plan(job)) == 6
    ((stratum, passes),) = found.passes.items()
    assert len(passes) == PASSES_PER_ACTOR, "the warm-up is left out"
    assert all(seconds > 0 for seconds in (*passes, found.decode[stratum], found.write[stratum]))
    assert found.start.load > 0
    assert found.bytes_a_megapixel > 1e6, "noise does not compress"
    assert found.row_bytes > 100


def test_rows_with_parameters_are_a_stratum_of_their_own(tmp_path: Path) -> None:
    params = [json.dumps({"grey": 9}) if row % 4 == 0 else None for row in range(40)]
    job = painter_job(tmp_path, write_dataset(tmp_path, 40, params=params))
    found = probed(job)
    assert {kind for kind, _ in found.passes} == {0, 1}
    assert all(found.passes.values())


def test_a_job_of_few_rows_is_probed_on_all_of_them(tmp_path: Path) -> None:
    found = probed(painter_job(tmp_path, write_dataset(tmp_path, 2)))
    assert found.rows == 2
    assert all(found.passes.values()), "the warm-up is all that there is"


def test_rows_that_fail_do_not_count_as_quick_ones(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 12)
    for row in range(0, 12, 2):
        (tmp_path / "files" / f"{row}.png").write_bytes(b"damaged")
    found = probed(painter_job(tmp_path, manifest, candidates=4))
    assert found.rows > found.failed > 0
    assert all(found.passes.values())


def test_if_no_row_can_be_edited_it_is_refused(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 3)
    for file in (tmp_path / "files").iterdir():
        file.write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="retouch check reports why"):
        probed(painter_job(tmp_path, manifest))


def test_weights_that_do_not_load_raise_the_error_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="clip"):
        probed(painter_job(tmp_path, write_dataset(tmp_path, 2), metrics=[{"name": "clip_score"}]))
    assert not (tmp_path / "out").exists()


def test_a_pass_holds_the_candidates_of_whole_rows(tmp_path: Path) -> None:
    plan = make_plan(painter_job(tmp_path, write_dataset(tmp_path, 6)))
    assert rows_per_pass(plan) == 4
    wide = make_plan(painter_job(tmp_path, tmp_path / "manifest.parquet", candidates=9))
    assert rows_per_pass(wide) == 1, "a row's candidates take several passes"


def test_on_an_object_store_or_a_cluster_it_writes_next_to_the_output_and_cleans_up(place: str) -> None:
    output = storage.join(place, "out")
    with _temporary_output(output, "auto") as probing:
        assert probing.startswith(f"{output}.probe-")
        storage.write_bytes(storage.join(probing, "images", "a.png"), b"x")
        storage.write_bytes(storage.join(probing, "results", "part.parquet"), b"x")
    assert storage.list_files(place) == []


def test_its_files_are_deleted_after_an_error_too(tmp_path: Path) -> None:
    def fails() -> None:
        with _temporary_output(str(tmp_path / "out"), "auto") as probing:
            storage.write_bytes(storage.join(probing, "a"), b"x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert tree(tmp_path) == []


@pytest.mark.ray
def test_through_ray_the_actors_share_the_probe_and_each_is_warmed_up(tmp_path: Path) -> None:
    job = painter_job(
        tmp_path,
        write_dataset(tmp_path, 60),
        editor={"name": "tests.helpers.slow:SlowPainter", "weights": {}},
        ray={"batch_size": 4, "actors": 2},
    )
    before = tree(tmp_path)
    found = probed(job, executor="ray")
    assert tree(tmp_path) == before, "the session's cluster may be of several machines: next to the output, and gone"
    assert (found.actors, found.pool, found.device) == (2, 2, "cpu")
    assert found.rows == 2 * (1 + PASSES_PER_ACTOR) * 4
    ((_, passes),) = found.passes.items()
    assert all(seconds >= 0.25 for seconds in passes), "a quarter of a second is the editor's own"
    assert found.start.cluster > 0
    assert found.start.load > 0
