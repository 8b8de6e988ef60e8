"""Rows of similar cost: counted by kind, sized by the headers of a sample."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from retouch.execution.planning.strata import PassKind, sample_rows, size_class, size_name, stratify
from retouch.manifests import reader

from tests.helpers.datasets import picture, png, write_dataset


def of_sizes(*sizes: tuple[int, int], **columns: list[object]) -> pa.Table:
    """Rows with images of these heights and widths, as bytes."""
    cells = [{"bytes": png(picture(0, height, width)), "path": None} for height, width in sizes]
    kind = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    return pa.table({"key": [str(n) for n in range(len(sizes))], "image": pa.array(cells, kind), **columns})


def test_rows_are_of_one_kind_if_nothing_that_determines_a_pass_differs(tmp_path: Path) -> None:
    table = reader.read(str(write_dataset(tmp_path, 6))).table
    found = stratify(table, range(6))
    assert found.kinds == (PassKind(),)
    assert found.of_row == (0,) * 6
    assert found.shares() == {(0, size_class(20 * 24 / 1e6)): 1.0}
    assert found.mean_megapixels == pytest.approx(20 * 24 / 1e6)


def test_checkpoint_parameters_and_exemplar_make_kinds_most_frequent_first() -> None:
    table = of_sizes(
        *[(8, 8)] * 5,
        params=pa.array(['{"steps": 9}', None, None, '{"steps": 9}', '{"steps": 9}'], pa.string()),
        checkpoint=pa.array([None, "s3://b/blue.pt", None, None, None], pa.string()),
        exemplar=pa.array([None, None, "e.png", None, None], pa.string()),
    )
    found = stratify(table, [])
    assert found.kinds[0] == PassKind(params='{"steps": 9}')
    assert set(found.kinds) == {found.kinds[0], PassKind(checkpoint="s3://b/blue.pt"), PassKind(exemplar=True)}
    assert [found.of_row[row] for row in (0, 3, 4)] == [0, 0, 0]
    assert sum(found.shares().values()) == pytest.approx(1.0)
    names = {kind.name for kind in found.kinds}
    assert names == {'{"steps": 9}', "blue.pt", "exemplar"}
    assert PassKind().name == "all alike"


def test_sizes_are_shares_of_the_sample_within_each_kind() -> None:
    table = of_sizes((100, 100), (100, 100), (100, 100), (1000, 1000), (1000, 1000), (1000, 1000))
    small, large = size_class(0.01), size_class(1.0)
    assert stratify(table, [0, 1, 2, 3]).shares() == {(0, small): 0.75, (0, large): 0.25}
    assert stratify(table, [5]).shares() == {(0, large): 1.0}
    assert stratify(table, [5]).size_of(5) == large
    assert stratify(table, [5]).size_of(0) is None
    mixed = of_sizes((100, 100), (1000, 1000), (8, 8), params=pa.array(["{}", "{}", '{"a": 1}'], pa.string()))
    shares = stratify(mixed, [0, 1]).shares()
    assert shares[1, small] == shares[1, large] == pytest.approx(1 / 6), "without a sample of its own, that of all"


@pytest.mark.parametrize(
    ("megapixels", "wanted"), [(1.0, 0), (1.001, 1), (2.0, 1), (0.5, -1), (0.26, -1), (0.25, -2), (0.0, -10)]
)
def test_a_size_class_ends_at_a_power_of_two(megapixels: float, wanted: int) -> None:
    assert size_class(megapixels) == wanted
    assert size_name(1) == "up to 2 MP"


def test_files_without_a_readable_header_have_no_size_and_are_counted(tmp_path: Path) -> None:
    table = reader.read(str(write_dataset(tmp_path, 4))).table
    (tmp_path / "files" / "1.png").unlink()
    (tmp_path / "files" / "2.png").write_bytes(b"no image")
    found = stratify(table, range(4))
    assert sorted(found.megapixels) == [0, 3]
    assert len(found.of_row) == 4
    assert sum(found.shares().values()) == pytest.approx(1.0)
    nothing = stratify(table, [1])
    assert nothing.shares() == {(0, 0): 1.0}
    assert nothing.mean_megapixels == 0.0


def test_headers_are_read_from_an_object_store(moto_s3: str, tmp_path: Path) -> None:
    from retouch import storage

    storage.write_bytes(f"{moto_s3}/a.png", png(picture(1, 300, 500)))
    table = pa.table({"key": ["a"], "image": [f"{moto_s3}/a.png"]})
    assert stratify(table, [0]).mean_megapixels == pytest.approx(0.15)


def test_the_same_rows_are_sampled_every_time_and_from_the_whole_table() -> None:
    keys = [f"row-{number:05d}" for number in range(10_000)]
    some = sample_rows(keys, 100)
    assert some == sample_rows(keys, 100) == sorted(set(some))
    assert len([row for row in some if row < 5000]) in range(30, 71)
    assert sample_rows(keys[:3], 100) == [0, 1, 2]
