"""What changed between two sets of requests."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.manifests import row_sets
from retouch.outputs import changes
from retouch.outputs.changes import CHANGED, LEFT_OVER, NEW, REMOVED, Changes, compare_requests


def table_of(some: Mapping[str, str] | Collection[str]) -> pa.Table:
    pairs_ = dict(some) if isinstance(some, Mapping) else dict.fromkeys(some, "")
    return pa.table({"key": list(pairs_), "fingerprint": list(pairs_.values())}, schema=row_sets.SCHEMA)


def compared(tonight: Mapping[str, str], before: Mapping[str, str], left: Collection[str], whole: bool) -> Changes:
    return compare_requests(table_of(tonight), table_of(before), table_of(left), "there", whole=whole)


def keys(found: Changes, kind: str) -> set[str]:
    return set(found.of(kind).to_pylist())


REQUESTS = st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["1", "2"]))


@settings(deadline=None)
@given(REQUESTS, REQUESTS, st.sets(st.sampled_from("abcdefgh")))
def test_every_request_has_one_kind_and_the_kinds_add_up(
    tonight: dict[str, str], before: dict[str, str], left: set[str]
) -> None:
    found = compared(tonight, before, left, True)
    counts = found.counts
    assert sum(counts.values()) - counts["removed"] == len(tonight)
    assert counts["removed"] == len(set(before) - set(tonight))
    assert keys(found, NEW) == set(tonight) - set(before)
    assert keys(found, CHANGED) == {key for key in tonight if key in before and before[key] != tonight[key]}
    assert keys(found, LEFT_OVER) == {key for key in left if key in tonight and before.get(key) == tonight[key]}
    assert keys(found, REMOVED).isdisjoint(tonight)


@settings(deadline=None)
@given(REQUESTS, REQUESTS)
def test_a_part_of_a_manifest_removes_nothing(tonight: dict[str, str], before: dict[str, str]) -> None:
    assert not keys(compared(tonight, before, (), False), REMOVED)


@settings(deadline=None)
@given(REQUESTS)
def test_the_same_requests_again_change_nothing(requests: dict[str, str]) -> None:
    assert compared(requests, requests, (), True).counts["unchanged"] == len(requests)


def test_what_is_recorded_reads_back_and_the_newest_comes_first(tmp_path: Path) -> None:
    nobody = table_of(())
    first = compare_requests(table_of({"a": "1"}), nobody, nobody, None, whole=True)
    before = table_of({"a": "1", "gone": "1"})
    second = compare_requests(table_of({"a": "2", "é\n": "1"}), before, nobody, "runs/before", whole=True)
    for epoch, found in ((3, first), (11, second)):
        changes.write(str(tmp_path), found, epoch)
    assert [changes.read(file) for file in changes.history(str(tmp_path))] == [second, first]
    assert second.text() == "since runs/before: 1 new, 1 changed, 1 removed"
