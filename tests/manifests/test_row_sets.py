"""Row sets give the same results as dictionaries."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.manifests import row_sets
from retouch.outputs.image_paths import rows_digest

SOME = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), st.sampled_from(["1", "2", "22"]))


def table_of(some: dict[str, str]) -> pa.Table:
    return pa.table({"key": list(some), "fingerprint": list(some.values())}, schema=row_sets.SCHEMA)


def dict_of(table: pa.Table) -> dict[str, str]:
    return dict(zip(table["key"].to_pylist(), table["fingerprint"].to_pylist(), strict=True))


@settings(deadline=None)
@given(SOME, SOME)
def test_rows_are_compared_as_in_dictionaries(mine: dict[str, str], others: dict[str, str]) -> None:
    table, there = table_of(mine), table_of(others)
    same = {key: value for key, value in mine.items() if others.get(key) == value}
    assert dict_of(table.filter(row_sets.is_same(table, there))) == same
    assert dict_of(row_sets.without(table, there)) == {key: value for key, value in mine.items() if key not in same}
    assert dict_of(row_sets.with_keys(table, there)) == {key: value for key, value in mine.items() if key in others}
    assert dict_of(row_sets.without_keys(table, there)) == {k: v for k, v in mine.items() if k not in others}


@settings(deadline=None)
@given(SOME)
def test_a_row_set_has_the_digest_of_its_items(mine: dict[str, str]) -> None:
    assert row_sets.digest(table_of(mine)) == rows_digest(mine.items())
    assert row_sets.digest(table_of(dict(reversed(mine.items())))) == rows_digest(mine.items())


def test_a_digest_of_many_rows_covers_all_chunks() -> None:
    many = {f"row {number}": str(number * 7) for number in range(row_sets.CHUNK_ROWS + 7)}
    assert row_sets.digest(table_of(many)) == rows_digest(many.items())
