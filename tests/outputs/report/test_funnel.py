"""Every answered row is lost at one station at most, the one that its answer names."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from retouch.outputs.report.funnel import STATIONS, make_funnel
from retouch.schema import STATUSES, SUCCESS

STAGES = ("decode", "prepare", "edit", "score", "encode", "write")


def table(*rows: tuple[str, str | None, int | None]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    kinds = {"status": pa.string(), "error_stage": pa.string(), "attempts": pa.int32()}
    return pa.table({name: pa.array(cells, kind) for (name, kind), cells in zip(kinds.items(), columns, strict=True)})


def test_rows_are_counted_where_they_were_lost() -> None:
    found = make_funnel(
        table(
            (SUCCESS, None, 2),
            (SUCCESS, None, 1),
            ("failed_to_load", "decode", None),
            ("failed_to_edit", "decode", 0),  # its worker died over its files
            ("failed_to_edit", "edit", 3),
            ("filtered", "edit", 1),
            ("failed_quality", "score", 6),
            ("failed_to_edit", "encode", 1),
        )
    )
    assert [(one.name, one.rows, one.lost) for one in found.stations] == [
        ("read", 8, {}),
        ("loaded", 6, {"failed_to_edit": 1, "failed_to_load": 1}),
        ("edited", 4, {"failed_to_edit": 1, "filtered": 1}),
        ("passed the gate", 3, {"failed_quality": 1}),
        ("kept", 2, {"failed_to_edit": 1}),
    ]
    assert found.tries == 14


@given(st.lists(st.tuples(st.sampled_from(STATUSES), st.sampled_from(STAGES) | st.none(), st.integers(0, 9))))
def test_the_counts_add_up_whatever_the_table_holds(rows: list) -> None:
    found = make_funnel(table(*rows))
    assert [one.name for one in found.stations] == list(STATIONS)
    counts = [one.rows for one in found.stations]
    assert counts[0] == len(rows)
    assert counts[-1] == sum(status == SUCCESS for status, *_ in rows)
    before = len(rows)
    for one in found.stations:
        assert before - one.rows == sum(one.lost.values()) >= 0
        before = one.rows
