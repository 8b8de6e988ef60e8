"""Image bytes stay in their manifest file until a block is decoded."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.errors import ManifestError
from retouch.execution.edit import run
from retouch.execution.plan import make_plan
from retouch.manifests import deferred_images, reader
from retouch.manifests.fingerprints import with_fingerprints
from retouch.outputs.verify import verify_output
from rich.console import Console

from tests.helpers.datasets import painter_job, write_dataset


@pytest.fixture(autouse=True)
def _every_image_is_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred_images, "DEFER_FROM", 1)
    monkeypatch.setattr(reader, "ROWS_PER_READ", 3)


def images(count: int, first: int = 0) -> list[bytes]:
    return [f"image {number}".encode() for number in range(first, first + count)]


def saved(folder: Path, name: str, columns: dict[str, object], group: int = 4) -> str:
    pq.write_table(pa.table(columns), folder / name, row_group_size=group)
    return str(folder / name)


def near_and_far(sources: str | list[str]) -> tuple[pa.Table, pa.Table]:
    return reader.read(sources).table, reader.read(sources, defer_images=True).table


@settings(deadline=None, max_examples=20)
@given(order=st.permutations(range(11)), rows=st.integers(1, 11))
def test_filled_rows_are_those_of_the_manifest_in_whatever_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], rows: int
) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    columns = {"image": images(11), "mask": ["m.png", None] * 5 + ["n.png"], "label": list(range(11))}
    near, far = near_and_far(saved(folder, "rows.parquet", columns))
    assert far["image"].to_pylist() != near["image"].to_pylist()
    some = order[:rows]
    assert deferred_images.load_deferred(far.take(some)).equals(near.take(some))


def test_keys_and_fingerprints_are_the_same_near_and_far(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(b"a mask")
    columns = {"image": images(7), "mask": ["mask.png"] * 6 + [None], "prompt": list("abcdefg")}
    near, far = near_and_far(saved(tmp_path, "rows.parquet", columns))
    assert near["key"].equals(far["key"])
    decides = {"editor": "x"}
    wanted = with_fingerprints(near, decides)["fingerprint"]
    assert with_fingerprints(far, decides)["fingerprint"].to_pylist() == wanted.to_pylist()


def test_files_with_bytes_and_files_with_addresses_go_together(tmp_path: Path) -> None:
    sources = [
        saved(tmp_path, "a.parquet", {"key": list("abcd"), "image": images(4)}),
        saved(tmp_path, "b.parquet", {"key": list("ef"), "image": ["x.png", "y.png"]}),
        saved(tmp_path, "c.parquet", {"key": list("g"), "image": [{"bytes": b"seven", "path": None}]}),
    ]
    near, far = near_and_far(sources)
    assert deferred_images.load_deferred(far).to_pylist() == near.to_pylist()
    assert deferred_images.load_deferred(far.slice(4, 2))["image"].to_pylist() == [
        str(tmp_path / "x.png"),
        str(tmp_path / "y.png"),
    ]


def test_a_manifest_of_addresses_stays_as_it_is(tmp_path: Path) -> None:
    near, far = near_and_far(saved(tmp_path, "rows.parquet", {"key": ["a"], "image": ["x.png"]}))
    assert far.equals(near)
    assert deferred_images.load_deferred(far) is far


def test_a_manifest_without_a_row_has_none_far(tmp_path: Path) -> None:
    source = saved(tmp_path, "rows.parquet", {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())})
    assert reader.read(source, defer_images=True).table.num_rows == 0


def test_a_manifest_that_changed_meanwhile_is_an_error_and_gives_no_other_rows_bytes(tmp_path: Path) -> None:
    source = saved(tmp_path, "rows.parquet", {"key": list("abcd"), "image": images(4)})
    far = reader.read(source, defer_images=True).table
    saved(tmp_path, "rows.parquet", {"key": list("abcd"), "image": images(4, first=1)})
    with pytest.raises(ManifestError, match="changed during the run; run it again"):
        deferred_images.load_deferred(far)
    saved(tmp_path, "rows.parquet", {"key": ["a"], "image": images(1)})
    with pytest.raises(ManifestError, match="run it again"):
        deferred_images.load_deferred(far)


def test_the_callers_columns_are_the_same_near_and_far(tmp_path: Path) -> None:
    source = saved(tmp_path, "rows.parquet", {"image": images(4), "label": list("abcd")})
    assert reader.read(source, defer_images=True).caller == reader.read(source).caller


def test_a_run_whose_images_stay_far_gives_the_files_of_one_that_holds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = write_dataset(tmp_path, 7)
    rows = pq.read_table(near).to_pylist()
    with_bytes = [{**row, "image": (tmp_path / row["image"]).read_bytes()} for row in rows]
    pq.write_table(pa.Table.from_pylist(with_bytes), tmp_path / "bytes.parquet", row_group_size=3)
    digests = []
    for name, limit in (("near", 1 << 40), ("far", 1)):
        monkeypatch.setattr(deferred_images, "DEFER_FROM", limit)
        job = painter_job(tmp_path, tmp_path / "bytes.parquet", output=str(tmp_path / name), ray={"rows_per_block": 2})
        plan = make_plan(job)
        assert (deferred_images.FILE in plan.todo.column_names) == (name == "far")
        assert not set(deferred_images.COLUMNS) & set(plan.write.schema.names)
        run(job, executor="local", console=Console(file=io.StringIO()))
        digests.append(verify_output(job.output).digest)
        assert verify_output(job.output).statuses == {"success": 7}
    assert digests[0] == digests[1]
