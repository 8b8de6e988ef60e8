"""What changed between two sets of requests."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline import changes
from pipeline.changes import CHANGED, LEFT_OVER, NEW, REMOVED, compare

REQUESTS = st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["1", "2"]))


@given(REQUESTS, REQUESTS, st.sets(st.sampled_from("abcdefgh")))
def test_every_request_has_one_kind_and_the_kinds_add_up(
    tonight: dict[str, str], before: dict[str, str], left: set[str]
) -> None:
    found = compare(tonight, before, left, "there", whole=True)
    counts = found.counts
    assert sum(counts.values()) - counts["removed"] == len(tonight)
    assert counts["removed"] == len(set(before) - set(tonight))
    assert found.of(NEW) == set(tonight) - set(before)
    assert found.of(CHANGED) == {key for key in tonight if key in before and before[key] != tonight[key]}
    assert found.of(LEFT_OVER) == {key for key in left if key in tonight and before.get(key) == tonight[key]}
    assert found.of(REMOVED).isdisjoint(tonight)


@given(REQUESTS, REQUESTS)
def test_a_part_of_a_manifest_removes_nothing(tonight: dict[str, str], before: dict[str, str]) -> None:
    assert not compare(tonight, before, (), "there", whole=False).of(REMOVED)


@given(REQUESTS)
def test_the_same_requests_again_change_nothing(requests: dict[str, str]) -> None:
    assert compare(requests, requests, (), "there", whole=True).counts["unchanged"] == len(requests)


def test_what_is_recorded_reads_back_and_the_newest_comes_first(tmp_path: Path) -> None:
    first = compare({"a": "1"}, {}, (), None, whole=True)
    second = compare({"a": "2", "é\n": "1"}, {"a": "1", "gone": "1"}, (), "runs/before", whole=True)
    for epoch, found in ((3, first), (11, second)):
        changes.write(str(tmp_path), found, epoch)
    assert [changes.read(file) for file in changes.history(str(tmp_path))] == [second, first]
    assert second.text() == "since runs/before: 1 new, 1 changed, 1 removed"
