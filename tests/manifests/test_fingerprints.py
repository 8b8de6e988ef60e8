"""A fingerprint changes with everything that decides a row's pixels, and with nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch import storage
from retouch.manifests import reader, row_sets
from retouch.manifests.fingerprints import with_fingerprints

from tests.manifests.test_reader import saved


def fingerprints(table: pa.Table, **identity: Any) -> dict[str, str]:
    """Return fingerprint by key."""
    done = with_fingerprints(table, identity)
    return dict(zip(done["key"].to_pylist(), done["fingerprint"].to_pylist(), strict=True))


def request(**changed: Any) -> pa.Table:
    """Return one request without addresses to look up."""
    row = {"key": "k", "image": b"i", "prompt": "p", "seed": 1, "params": '{"a": 1, "b": 2}', "checkpoint": "c"}
    row |= {"mask": b"m", "exemplar": b"e", "bbox": [0.0, 0.0, 1.0, 1.0], "source_prompt": "s"}
    return pa.Table.from_pylist([{**row, **changed}])


@pytest.mark.parametrize(
    "changed",
    [
        {"key": "other"},
        {"image": b"other"},
        {"mask": None},
        {"mask": b"i"},
        {"exemplar": b"m"},
        {"prompt": ""},
        {"prompt": None},
        {"source_prompt": "p"},
        {"seed": 2},
        {"params": '{"a": 1}'},
        {"bbox": [0.0, 0.0, 1.0, 2.0]},
        {"checkpoint": "d"},
    ],
)
def test_every_part_of_a_request_is_in_its_fingerprint(changed: dict[str, Any]) -> None:
    before, after = fingerprints(request()), fingerprints(request(**changed))
    assert set(before.values()).isdisjoint(after.values())


def test_what_the_run_decides_is_in_every_fingerprint() -> None:
    assert fingerprints(request(), seed=0) != fingerprints(request(), seed=1)
    assert fingerprints(request(), a=1, b=2) == fingerprints(request(), b=2, a=1)


def test_spacing_of_params_and_columns_of_the_callers_decide_nothing() -> None:
    assert fingerprints(request()) == fingerprints(request(params='{"b":2,"a":1}'))
    assert fingerprints(request()) == fingerprints(request(label="x"))
    without = request().drop_columns(["exemplar"])
    assert fingerprints(without) == fingerprints(request(exemplar=None))


def test_an_input_is_its_content_where_that_is_at_hand(place: str, tmp_path: Path) -> None:
    def of(cell: Any) -> str:
        return fingerprints(request(image=cell))["k"]

    uri = storage.join(place, "i.png")
    missing = of(uri)
    storage.write_bytes(uri, b"i")
    there = of(uri)
    assert missing != there
    storage.write_bytes(uri, b"other")
    assert of(uri) != there
    storage.write_bytes(str(tmp_path / "moved.png"), b"i")
    assert of(str(tmp_path / "moved.png")) == of(b"i") == of({"bytes": b"i", "path": "anything.png"})


def test_a_checkpoint_file_is_its_content(tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    file.write_bytes(b"one")
    before = fingerprints(request(checkpoint=str(file)))
    file.write_bytes(b"two")
    assert fingerprints(request(checkpoint=str(file))) != before


keys = st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=8, unique=True)


@settings(max_examples=25, deadline=None)
@given(keys=keys, data=st.data())
def test_fingerprints_do_not_depend_on_the_order_or_company_of_rows(keys: list[str], data: st.DataObject) -> None:
    table = pa.concat_tables([request(key=key, prompt=key[:1]) for key in keys])
    order = data.draw(st.permutations(range(len(keys))))
    some = order[: data.draw(st.integers(1, len(keys)))]
    everyone = fingerprints(table)
    assert fingerprints(table.take(some)) == {keys[i]: everyone[keys[i]] for i in some}
    assert len(set(everyone.values())) == len(keys)


@settings(max_examples=25, deadline=None)
@given(keys=keys, data=st.data())
def test_what_is_left_is_what_is_not_done_in_its_order(keys: list[str], data: st.DataObject) -> None:
    table = with_fingerprints(pa.concat_tables([request(key=key) for key in keys]), {})
    known = dict(zip(keys, table["fingerprint"].to_pylist(), strict=True))
    done = {key: known[key] for key in data.draw(st.sets(st.sampled_from(keys)))}
    stale = {key: "older" for key in data.draw(st.sets(st.sampled_from(keys))) if key not in done}
    known = {**done, **stale, "nobody": "x"}
    left = row_sets.without(table, pa.table({"key": list(known), "fingerprint": list(known.values())}))
    assert left["key"].to_pylist() == [key for key in keys if key not in done]


@pytest.mark.parametrize(
    "address", ["", ".", "/", "file/below.png", "x" * 300, "a\0b", "gopher://x/y.png", "s3x://b/k"]
)
def test_an_address_that_can_name_nothing_counts_as_missing_and_keeps_no_other_row(
    tmp_path: Path, address: str
) -> None:
    (tmp_path / "file").write_bytes(b"data")
    columns = {"key": ["a", "b"], "image": [address, "file"], "checkpoint": [address, None]}
    read = reader.read(saved(tmp_path, columns))
    first, second = with_fingerprints(read.table, {})["fingerprint"].to_pylist()
    assert second == with_fingerprints(read.table.slice(1), {})["fingerprint"][0].as_py()
    assert first != second
