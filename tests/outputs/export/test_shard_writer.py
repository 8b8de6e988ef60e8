"""Names that WebDataset can part from their endings, and records that are JSON whatever a column holds."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from retouch.errors import ConfigError
from retouch.outputs.export.shard_writer import as_json, file_name, record_columns


@given(st.lists(st.text(max_size=8) | st.text("./%_-\\", max_size=8), unique=True, max_size=8))
def test_names_hold_no_dot_and_no_slash_and_no_two_keys_share_one(keys: list[str]) -> None:
    names = [file_name(key) for key in keys]
    assert len(set(names)) == len(keys)
    assert all(name and not set(name) & set("./\\") and not name.startswith("_") for name in names)


@given(st.dictionaries(st.text(), st.floats() | st.text() | st.none() | st.lists(st.floats())))
def test_any_record_is_one_line_of_strict_json(record: dict) -> None:
    line = as_json(record)
    assert b"\n" not in line
    json.loads(line, parse_constant=lambda name: pytest.fail(name))


def test_times_bytes_and_decimals_have_a_form() -> None:
    when = datetime.datetime(2026, 11, 27, tzinfo=datetime.UTC)
    record = {
        "at": when,
        "day": when.date(),
        "for": datetime.timedelta(minutes=1),
        "data": b"x",
        "price": Decimal("1.20"),
    }
    assert json.loads(as_json(record)) == {
        "at": "2026-11-27T00:00:00+00:00",
        "day": "2026-11-27",
        "for": 60.0,
        "data": "eA==",
        "price": "1.20",
    }


def test_a_column_that_would_hide_an_image_is_refused() -> None:
    assert record_columns("pairs", ["key", "prompt", "label"], ()) == ("key", "label")
    with pytest.raises(ConfigError, match="column 'edited_image' has a name that the export needs"):
        record_columns("pairs", ["key", "edited_image"], ())
    assert record_columns("edited", ["key", "edited_image"], ()) == ("key", "edited_image")
    with pytest.raises(ConfigError, match="column 'file_name'"):
        record_columns("edited", ["file_name"], ["file_name"])
