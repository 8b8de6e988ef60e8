"""The results table's files: which rows stand, and others put in their place without all of them in memory."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.errors import OutputError
from retouch.outputs import result_files, results
from retouch.schema import FAILED_TO_EDIT, SUCCESS, results_schema

SCHEMA = results_schema({}, pa.schema([("label", pa.string())]))
ANSWERS = st.lists(
    st.tuples(
        st.sampled_from("abcé"), st.sampled_from([SUCCESS, FAILED_TO_EDIT]), st.integers(1, 3), st.integers(0, 2)
    ),
    max_size=12,
)


def rows(*keys: str, label: str = "") -> pa.Table:
    told = [{"key": key, "fingerprint": "f", "status": SUCCESS, "label": label} for key in keys]
    return pa.Table.from_pylist(told, SCHEMA)


@settings(deadline=None)
@given(ANSWERS)
def test_one_row_a_key_stands_by_epoch_then_success_then_place(answers: list[tuple[str, str, int, int]]) -> None:
    columns = dict(
        zip(("key", "status", result_files.EPOCH, result_files.ORDER), zip(*answers, strict=True), strict=False)
    )
    types = {"key": pa.string(), "status": pa.string(), result_files.EPOCH: pa.int64(), result_files.ORDER: pa.int64()}
    table = pa.table({name: pa.array(columns.get(name, ()), kind) for name, kind in types.items()})
    best: dict[str, int] = {}
    for row, (key, status, epoch, order) in enumerate(answers):
        rank = (epoch, status == SUCCESS, order, row)
        if key not in best or rank > (
            answers[best[key]][2],
            answers[best[key]][1] == SUCCESS,
            answers[best[key]][3],
            best[key],
        ):
            best[key] = row
    assert result_files.current_rows(table).to_pylist() == [best[key] for key in sorted(best)]


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_rows_pass_in_tables_of_bounded_size_and_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(result_files, "MAX_ROWS_PER_FILE", most)
    output = str(tmp_path)
    for number, keys in enumerate(("dab", "c", "efghi")):
        results.write_block(output, rows(*keys, label=str(number)), epoch=1)
    before = results.read(output)
    results.compact(output)
    files = result_files.files(output)
    sizes = [pq.read_metadata(file).num_rows for file in files]
    assert sum(sizes) == 9
    assert max(sizes) <= most
    assert len(files) == -(-9 // most)
    assert results.read(output).equals(before)
    results.compact(output)
    assert result_files.files(output) == files, "what is merged already is left"


def test_all_merged_files_have_the_same_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_files, "MAX_ROWS_PER_FILE", 1)
    output = str(tmp_path)
    results.write_block(output, rows("a").drop_columns(["label"]), epoch=1)
    results.write_block(output, rows("b", label="x"), epoch=2)
    results.compact(output)
    schemas = [pq.read_schema(file) for file in result_files.files(output)]
    assert len(schemas) == 2
    assert schemas[0].equals(schemas[1])


def test_files_whose_columns_do_not_go_together_are_an_error_that_names_the_folder(tmp_path: Path) -> None:
    output = str(tmp_path)
    results.write_block(output, rows("a"), epoch=1)
    other = rows("b").drop_columns(["label"]).append_column("label", pa.array([[1]], pa.list_(pa.int64())))
    results.write_block(output, other, epoch=1)
    with pytest.raises(OutputError, match=r"results in .*results have incompatible columns"):
        results.compact(output)
