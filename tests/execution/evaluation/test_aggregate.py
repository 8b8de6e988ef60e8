from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from retouch import storage
from retouch.execution.evaluation import aggregate
from retouch.execution.evaluation.image_sets import ImageRef, ImageSet

IMAGES = ImageSet(
    None, (ImageRef("b", "b.png", ""), ImageRef("a", "a.png", "")), {"c": "failed_to_edit: no", "d": "gone"}
)


def test_every_row_is_in_the_table_once_with_its_reason(tmp_path: Path) -> None:
    columns = {"score": pa.float64(), "by": pa.string()}
    part = pa.table({"key": ["b", "a"], "error": [None, "broken"], "score": [2.5, None], "by": ["vgg", None]})
    storage.write_table(str(tmp_path / "part.parquet"), part)
    table = aggregate.rows_table(IMAGES, [str(tmp_path / "part.parquet")], columns)
    assert table["key"].to_pylist() == ["a", "b", "c", "d"]
    assert table["status"].to_pylist() == ["there", "there", "missing", "missing"]
    assert table["error"].to_pylist() == ["broken", None, "failed_to_edit: no", "gone"]
    assert aggregate.scoring_errors(table) == {"a": "broken"}
    assert aggregate.summarize_scores(table, {"score": "float64", "by": "string"}) == {
        "score": {"images": 1, "mean": 2.5},
        "by": {"images": 1, "values": {"vgg": 1}},
    }


def test_without_row_metrics_the_table_names_images_and_missing_rows_alone() -> None:
    table = aggregate.rows_table(IMAGES, [], {})
    assert table.column_names == ["key", "status", "error"]
    assert table["key"].to_pylist() == ["a", "b", "c", "d"]


def test_a_column_without_a_number_has_no_mean() -> None:
    table = pa.table({"score": pa.array([None, None], pa.float64())})
    assert aggregate.summarize_scores(table, {"score": "float64"}) == {"score": {"images": 0, "mean": None}}


def test_counts_are_of_all_and_names_of_the_first() -> None:
    many = {str(number): "gone" for number in range(aggregate.MAX_NAMED + 5)}
    found = aggregate.summarize_reasons(many)
    assert found["count"] == aggregate.MAX_NAMED + 5
    assert len(found["keys"]) == aggregate.MAX_NAMED
    assert aggregate.count_images(IMAGES) == {
        "images": 2,
        "missing": {
            "count": 2,
            "keys": {"c": "failed_to_edit: no", "d": "gone"},
            "by": {"failed_to_edit": 1, "gone": 1},
        },
    }
