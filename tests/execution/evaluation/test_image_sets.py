from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from retouch.errors import ConfigError
from retouch.execution.edit import run
from retouch.execution.evaluation import image_sets
from retouch.execution.evaluation.image_sets import ImageRef, ImageSet, decode_images, read_set, with_requests
from retouch.manifests import row_sets
from retouch.outputs import results

from tests.helpers.datasets import painter_job, picture, png, write_dataset


def write_images(folder: Path, *names: str) -> str:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture(number)))
    return str(folder)


def finished_run(tmp_path: Path, sink: str = "files") -> str:
    job = painter_job(tmp_path, write_dataset(tmp_path, 7, {2: "raise"}), sink=sink, max_failure_rate=1.0)
    run(job, executor="local")
    return job.output


@pytest.mark.parametrize("sink", ["files", "tar"])
def test_a_run_gives_the_images_that_it_made_and_names_the_rows_without_one(tmp_path: Path, sink: str) -> None:
    output = finished_run(tmp_path, sink)
    found = read_set(output)
    assert sorted(row.key for row in found.rows) == [f"row-{i:03d}" for i in (0, 1, 3, 4, 5, 6)]
    assert found.missing == {"row-002": "failed_to_edit: this prompt cannot be edited"}
    decoded = {row.key: image for row, image in decode_images(found.base, found.rows)}
    assert len(decoded) == 6
    for key, image in decoded.items():
        assert not isinstance(image, str)
        before = picture(int(key[-3:]))
        assert np.array_equal(image[:4], before[:4])  # the painter's mask begins below
        assert not np.array_equal(image, before)


def test_other_statuses_count_where_the_job_says_so(tmp_path: Path) -> None:
    quality = {"mode": "reject", "thresholds": {"redness": {"max": 120}}}
    job = painter_job(tmp_path, write_dataset(tmp_path, 8), quality=quality, max_failure_rate=1.0)
    run(job, executor="local")
    rejected = results.read(job.output, ["status"])["status"].to_pylist().count("failed_quality")
    assert 0 < rejected < 8
    assert len(read_set(job.output).rows) == 8 - rejected
    assert len(read_set(job.output, ("success", "failed_quality")).rows) == 8


def test_rows_without_a_result_are_missing(tmp_path: Path) -> None:
    output = finished_run(tmp_path)
    asked = pa.table({"key": ["new"], "fingerprint": ["f"]}, schema=row_sets.SCHEMA)
    results.write_requests(output, asked)
    assert read_set(output).missing["new"] == "not done yet"


def test_an_image_that_is_gone_or_not_the_recorded_one_has_an_error_message(tmp_path: Path) -> None:
    output = finished_run(tmp_path)
    found = read_set(output)
    gone, changed = found.rows[0], found.rows[1]
    (Path(output) / gone.address).unlink()
    (Path(output) / changed.address).write_bytes(png(picture(99)))
    read = {row.key: image for row, image in decode_images(found.base, found.rows)}
    assert len(read) == 6
    assert "no image at" in str(read[gone.key])
    assert "differs from its recorded sha256" in str(read[changed.key])
    assert sum(isinstance(image, str) for image in read.values()) == 2


def test_a_folder_or_a_glob_gives_its_images_by_their_place_in_it(tmp_path: Path) -> None:
    folder = write_images(tmp_path, "a.png", "b#1.PNG", "in/a.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    assert [row.key for row in read_set(folder).rows] == ["a", "b#1", "in/a"]
    assert [row.key for row in read_set(f"{folder}/*.[pP]*").rows] == ["a", "b#1"]
    assert [row.key for row in read_set(f"{folder}/**/*.jpg").rows] == ["in/a"]
    assert all(not isinstance(image, str) for _, image in decode_images(None, read_set(folder).rows))


def test_a_relative_folder_is_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "real", "a.png")
    monkeypatch.chdir(tmp_path)
    (row,) = read_set("real").rows
    assert row.address == str(tmp_path / "real" / "a.png")


def test_a_folder_on_other_storage_is_read_alike(place: str) -> None:
    from retouch import storage

    storage.write_bytes(f"{place}/x.png", png(picture(3)))
    found = read_set(place)
    ((row, image),) = decode_images(found.base, found.rows)
    assert row.key == "x"
    assert np.array_equal(image, picture(3))


def test_a_manifest_gives_addresses_and_bytes_and_names_what_is_not_there(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    cells = [
        {"path": "a.png", "bytes": None},
        {"path": None, "bytes": png(picture(5))},
        {"path": "no.png", "bytes": None},
    ]
    pq.write_table(pa.table({"key": ["a", "b", "c"], "image": cells}), tmp_path / "m.parquet")
    found = read_set(str(tmp_path / "m.parquet"))
    read = {row.key: image for row, image in decode_images(found.base, found.rows)}
    assert np.array_equal(read["a"], picture(0))
    assert np.array_equal(read["b"], picture(5))
    assert list(found.missing) == ["c"]
    assert "no image at" in found.missing["c"]


def test_a_changed_image_has_another_identity(tmp_path: Path) -> None:
    folder = write_images(tmp_path, "a.png")
    before = read_set(folder).rows[0].identity
    write_images(tmp_path, "x.png", "a.png")
    assert read_set(folder).rows[0].identity != before


def test_two_endings_of_one_name_and_a_set_without_images_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "two", "a.png", "a.jpg")
    with pytest.raises(ConfigError, match="1 images under two endings, first a"):
        read_set(str(tmp_path / "two"))
    with pytest.raises(ConfigError, match=r"no image at .*nowhere"):
        read_set(str(tmp_path / "nowhere"))


def test_requests_go_to_their_images_and_those_without_an_image_are_missing(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", "row-000.png", "stranger.png")
    found = with_requests(read_set(folder), str(write_dataset(tmp_path, 2)))
    requests = {row.key: row.request for row in found.rows}
    assert requests["stranger"] is None
    assert requests["row-000"] is not None
    assert requests["row-000"]["prompt"] == "a red circle"
    assert found.missing == {"row-001": "no image of this key"}


def test_of_a_run_of_the_first_rows_the_others_are_not_missing(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 7))
    run(job, executor="local", limit=3)
    found = with_requests(read_set(job.output), str(tmp_path / "manifest.parquet"))
    assert (len(found.rows), found.missing) == (3, {})
    assert all(row.request is not None for row in found.rows)


@given(st.integers(1, 50), st.integers(1, 70))
def test_shards_hold_every_row_once_in_order_and_none_is_empty(rows: int, count: int) -> None:
    images = ImageSet(None, tuple(ImageRef(str(i), "", "") for i in range(rows)))
    shards = images.shards(count)
    assert [row for shard in shards for row in shard] == list(images.rows)
    assert len(shards) == min(rows, count)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_more_images_than_are_read_ahead_come_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path, *(f"{i}.png" for i in range(11)))
    monkeypatch.setattr(image_sets, "PREFETCH", 4)
    assert len(list(decode_images(None, read_set(folder).rows))) == 11
