"""Rows leave a run by their status and by what is asked of their columns; the others are counted by reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.errors import ConfigError
from retouch.outputs.export.row_filter import Choice, choose_rows
from retouch.schema import results_schema

SCHEMA = results_schema({"clip_score": pa.float64()}, pa.schema([("label", pa.string())]))
STATUSES = ("success", "failed_quality", "failed_to_edit", "failed_to_load", "filtered")


def table(*rows: dict) -> pa.Table:
    told = [{"fingerprint": "f", "status": "success", "output": f"images/{row['key']}.png", **row} for row in rows]
    return pa.Table.from_pylist(told, SCHEMA)


ROWS = table(
    {"key": "a", "clip_score": 30.0, "label": "x"},
    {"key": "b", "clip_score": 20.0, "label": "y"},
    {"key": "c", "clip_score": None},
    {"key": "d", "clip_score": 40.0, "status": "failed_quality"},
    {"key": "e", "status": "failed_to_load", "output": None},
)


def asked(names: Iterable[str]) -> pa.Table:
    return pa.table({"key": pa.array(list(names), pa.string())})


def texts(prompts: Mapping[str, str | None] | None = None) -> pa.Table:
    if prompts is None:
        return asked([])
    return asked(prompts).append_column("prompt", pa.array(prompts.values(), pa.string()))


def keys(choice: Choice) -> list[str]:
    return choice.rows["key"].to_pylist()


def test_only_successes_leave_unless_more_is_asked_for_by_name() -> None:
    choice = choose_rows(ROWS, asked("abcdef"), texts())
    assert keys(choice) == ["a", "b", "c"]
    assert choice.left_out == {"failed_quality": 1, "failed_to_load": 1, "not answered yet": 1}
    assert keys(choose_rows(ROWS, asked("abcde"), texts(), statuses=["success", "failed_quality"])) == [
        "a",
        "b",
        "c",
        "d",
    ]


def test_a_condition_never_lets_out_what_its_status_keeps_in() -> None:
    choice = choose_rows(ROWS, asked("abcde"), texts(), where="clip_score > 25 or status <> 'success'")
    assert keys(choice) == ["a"]
    assert choice.left_out == {"failed_quality": 1, "failed_to_load": 1, "not --where": 2}


def test_conditions_see_every_column_and_the_prompts() -> None:
    prompts = texts({"a": "a red circle", "b": "a blue square", "c": None})
    assert keys(choose_rows(ROWS, asked("abcde"), prompts, where="prompt like '%blue%' and label = 'y'")) == ["b"]
    assert keys(choose_rows(ROWS, asked("abcde"), prompts, where="prompt is null")) == ["c"]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("clip_scor > 25", "clip_score"),
        ("clip_score >", "syntax error"),
        ("clip_score > 25); drop table x; --", "syntax error|Parser Error"),
        ("key in (select * from read_text('/etc/hostname'))", "disabled|read_text"),
    ],
)
def test_what_is_no_condition_over_these_columns_is_refused_in_one_line(where: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        choose_rows(ROWS, asked("abcde"), texts(), where=where)
    assert "\n" not in str(caught.value)


def test_a_status_without_images_an_unknown_column_and_nothing_left_are_said() -> None:
    with pytest.raises(ConfigError, match="--status 'failed_to_load': rows of this status have no image; give success"):
        choose_rows(ROWS, asked("abcde"), texts(), statuses=["failed_to_load"])
    with pytest.raises(ConfigError, match=r"no column 'clip_scor'.*did you mean clip_score\?"):
        choose_rows(ROWS, asked("abcde"), texts(), columns=["clip_scor"])
    with pytest.raises(ConfigError, match="no row to export: 1 failed_quality, 1 failed_to_load, 3 not --where"):
        choose_rows(ROWS, asked("abcde"), texts(), where="clip_score > 99")


def test_columns_are_metrics_the_callers_and_those_of_ours_that_mean_something_elsewhere() -> None:
    choice = choose_rows(ROWS, asked("abcde"), texts({"a": "x"}))
    assert choice.columns[0] == "key"
    assert {"status", "seed", "sha256", "prompt", "clip_score", "label"} <= set(choice.columns)
    assert not {"output", "fingerprint", "runners_up", "error_type", "edit_seconds"} & set(choice.columns)
    assert choose_rows(ROWS, asked("abcde"), texts(), columns=["label", "fingerprint"]).columns == (
        "key",
        "label",
        "fingerprint",
    )


def test_images_of_one_shard_leave_together_and_others_by_key() -> None:
    shards = {"a": "images/2.tar#a.png", "b": "images/1.tar#b.png", "c": "images/2.tar#c.png", "d": "images/d.png"}
    choice = choose_rows(table(*({"key": key, "output": at} for key, at in shards.items())), asked("abcd"), texts())
    assert keys(choice) == ["d", "b", "a", "c"]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from(STATUSES), st.floats(0, 1) | st.none()), max_size=12),
    extra=st.integers(0, 3),
)
def test_what_leaves_and_what_stays_add_up_to_what_was_asked_for(rows: list, extra: int) -> None:
    told = [{"key": f"{i:02d}", "status": status, "clip_score": score} for i, (status, score) in enumerate(rows)]
    keys_asked = [row["key"] for row in told] + [f"x{i}" for i in range(extra)]
    leaving = [row for row in told if row["status"] == "success" and (row["clip_score"] or 0) > 0.5]
    if not leaving:
        with pytest.raises(ConfigError, match="no row to export"):
            choose_rows(table(*told), asked(keys_asked), texts(), where="clip_score > 0.5")
        return
    choice = choose_rows(table(*told), asked(keys_asked), texts(), where="clip_score > 0.5")
    assert keys(choice) == [row["key"] for row in leaving]
    assert choice.rows.num_rows + sum(choice.left_out.values()) == len(keys_asked)
