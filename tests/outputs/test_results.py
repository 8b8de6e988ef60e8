"""The results table gives one answer a key, whatever was retried, repeated or killed on the way."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch import storage
from retouch.errors import OutputError
from retouch.outputs import results
from retouch.outputs.sinks import FileSink
from retouch.outputs.verify import verify_output, write_proof
from retouch.schema import FAILED_TO_EDIT, SUCCESS, results_schema

from tests.helpers.answers import answered

SCHEMA = results_schema({"clip_score": pa.float64()}, pa.schema([("label", pa.string())]))


def rows(*answers: Mapping[str, Any], schema: pa.Schema = SCHEMA) -> pa.Table:
    """Results rows; what is not said is a success of fingerprint f."""
    return pa.Table.from_pylist([{"fingerprint": "f", "status": SUCCESS, **answer} for answer in answers], schema)


def plainly(output: str) -> pa.Table:
    """What anybody reads who knows nothing of epochs."""
    return pq.read_table(storage.join(output, "results"))


@contextmanager
def folder() -> Iterator[str]:
    """An output of its own for each example."""
    path = tempfile.mkdtemp()
    try:
        yield path
    finally:
        shutil.rmtree(path)


def test_what_is_written_is_read_back_sorted_by_key(place: str) -> None:
    results.write_block(place, rows({"key": "b", "label": "x"}, {"key": "c"}), epoch=1)
    results.write_block(place, rows({"key": "a", "status": FAILED_TO_EDIT, "clip_score": 0.5}), epoch=1)
    table = results.read(place)
    assert table.schema.equals(SCHEMA)
    assert table["key"].to_pylist() == ["a", "b", "c"]
    assert table["label"].to_pylist() == [None, "x", None]
    assert answered(place) == {"a": ("f", FAILED_TO_EDIT), "b": ("f", SUCCESS), "c": ("f", SUCCESS)}
    assert results.next_epoch(place) == 2


def test_an_output_without_results_has_no_rows(tmp_path: Path) -> None:
    output = str(tmp_path)
    assert results.read(output).num_rows == 0
    assert answered(output) == {}
    assert results.next_epoch(output) == 1
    results.compact(output)
    assert results.sweep(output) == ()
    assert results.read_requests(output).num_rows == 0
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=20, deadline=None)
@given(keys=st.lists(st.text(max_size=5), min_size=1, max_size=6, unique=True), data=st.data())
def test_a_block_written_again_in_any_order_overwrites_itself(keys: list[str], data: st.DataObject) -> None:
    with folder() as output:
        first = results.write_block(output, rows(*({"key": key} for key in keys)), epoch=3)
        again = data.draw(st.permutations(keys))
        assert results.write_block(output, rows(*({"key": key} for key in again)), epoch=3) == first
        assert len(results.files(output)) == 1
        assert sorted(answered(output)) == sorted(keys)


answers = st.lists(
    st.tuples(
        st.integers(1, 3),  # epoch
        st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([SUCCESS, FAILED_TO_EDIT]), min_size=1),
    ),
    max_size=8,
)


def write_all(output: str, parts: list[tuple[int, dict[str, str]]]) -> None:
    """Parts whose fingerprints say when they were written."""
    for number, (epoch, statuses) in enumerate(parts):
        told = [{"key": key, "status": status, "fingerprint": f"{number}"} for key, status in statuses.items()]
        results.write_block(output, rows(*told), epoch=epoch)


@settings(max_examples=30, deadline=None)
@given(parts=answers)
def test_of_several_answers_that_of_the_highest_epoch_stands(parts: list) -> None:
    with folder() as output:
        write_all(output, parts)
        standing = answered(output)
        assert set(standing) == {key for _, statuses in parts for key in statuses}
        for key, (_, status) in standing.items():
            newest = max(epoch for epoch, statuses in parts if key in statuses)
            given_then = [statuses[key] for epoch, statuses in parts if epoch == newest and key in statuses]
            assert status == (SUCCESS if SUCCESS in given_then else FAILED_TO_EDIT)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(parts=answers)
def test_compaction_changes_no_reading_makes_the_plain_one_right_and_is_done_once(parts: list) -> None:
    with folder() as output:
        write_all(output, parts)
        before = results.read(output)
        results.compact(output)
        assert results.read(output).equals(before)
        files = {path: Path(path).stat().st_ino for path in results.files(output)}
        if parts:
            assert sorted(plainly(output)["key"].to_pylist()) == before["key"].to_pylist()
        results.compact(output)
        assert {path: Path(path).stat().st_ino for path in results.files(output)} == files


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(parts=answers.filter(bool), survived=st.integers(0, 20))
def test_a_kill_during_compaction_changes_no_answer_and_the_next_one_finishes(parts: list, survived: int) -> None:
    class Killed(Exception):
        """Stands for the end of the process."""

    with folder() as output, pytest.MonkeyPatch.context() as patch:
        write_all(output, parts)
        before = results.read(output)
        steps = iter(range(survived))

        def until_killed(act: Any) -> Any:
            def step(*args: Any) -> None:
                if next(steps, None) is None:
                    raise Killed
                act(*args)

            return step

        patch.setattr(storage, "write_bytes", until_killed(storage.write_bytes))
        patch.setattr(storage, "delete", until_killed(storage.delete))
        try:
            results.compact(output)
        except Killed:
            assert results.read(output).equals(before)
        patch.undo()
        results.compact(output)
        assert results.read(output).equals(before)
        assert sorted(plainly(output)["key"].to_pylist()) == before["key"].to_pylist()


def test_an_answer_after_a_compaction_stands_over_the_compacted(place: str) -> None:
    results.write_block(place, rows({"key": "a", "status": FAILED_TO_EDIT}, {"key": "b"}), epoch=1)
    results.write_block(place, rows({"key": "c"}), epoch=1)
    results.compact(place)
    results.write_block(place, rows({"key": "a"}), epoch=results.next_epoch(place))
    assert answered(place)["a"] == ("f", SUCCESS)
    results.compact(place)
    assert len(results.files(place)) == 1
    assert answered(place) == dict.fromkeys("abc", ("f", SUCCESS))


def test_a_column_that_only_newer_parts_have_is_null_in_older_rows(tmp_path: Path) -> None:
    output = str(tmp_path)
    results.write_block(output, rows({"key": "a"}, schema=results_schema({}, pa.schema([]))), epoch=1)
    results.write_block(output, rows({"key": "b", "clip_score": 1.5}), epoch=2)
    results.compact(output)
    assert plainly(output).select(["key", "clip_score"]).to_pylist() == [
        {"key": "a", "clip_score": None},
        {"key": "b", "clip_score": 1.5},
    ]


def test_columns_that_do_not_go_together_and_files_that_are_none_are_named(tmp_path: Path) -> None:
    output = str(tmp_path)
    for epoch, kind in enumerate((pa.string(), pa.int64())):
        schema = results_schema({}, pa.schema([("label", kind)]))
        results.write_block(output, rows({"key": f"{epoch}"}, schema=schema), epoch=epoch)
    with pytest.raises(OutputError, match=r"incompatible columns.*label"):
        results.read(output)
    storage.write_bytes(storage.join(output, "results/part-000009-x.parquet"), b"no parquet")
    with pytest.raises(OutputError, match=r"part-000009-x\.parquet is not a results file"):
        results.read(output)


def finished(output: str) -> dict[str, str]:
    """An output of two successes and a failure; key to the image's address."""
    sink = FileSink(output)
    told, placed = [], {}
    for key in ("a", "b"):
        data = f"image of {key}".encode()
        placed[key] = sink.put(key, "f" * 64, data, "png")
        told.append({"key": key, "output": placed[key], "sha256": hashlib.sha256(data).hexdigest()})
    other = sink.put("a", f"{'f' * 64}-1", b"second best", "png")
    told[0]["runners_up"] = [{"output": other, "sha256": hashlib.sha256(b"second best").hexdigest()}]
    results.write_block(output, rows(*told, {"key": "c", "status": FAILED_TO_EDIT}), epoch=1)
    results.write_requests(output, pa.table({"key": ["a", "b", "c"], "fingerprint": ["f"] * 3}))
    return placed


def test_a_whole_output_is_proved_whole(place: str) -> None:
    finished(place)
    proof = verify_output(place)
    assert proof.ok, proof.text()
    assert (proof.rows, proof.statuses, proof.images) == (3, {SUCCESS: 2, FAILED_TO_EDIT: 1}, 3)
    assert results.sweep(place) == ()
    assert verify_output(place, ["a", "b", "c"]) == proof
    assert proof.text().splitlines()[0] == "3 rows in = 2 success + 1 failed + 0 filtered; 3 images read back"


def test_whatever_is_amiss_is_found_and_named(tmp_path: Path) -> None:
    def broken(name: str) -> tuple[str, dict[str, str]]:
        output = str(tmp_path / name)
        return output, finished(output)

    output, placed = broken("missing image")
    storage.delete(storage.join(output, placed["a"]))
    assert verify_output(output).missing_images == (placed["a"],)

    output, placed = broken("other bytes")
    storage.write_bytes(storage.join(output, placed["b"]), b"tampered")
    assert verify_output(output).hash_mismatches == (placed["b"],)

    output, _ = broken("orphan")
    lost = FileSink(output).put("d", "0" * 64, b"x", "png")
    storage.write_bytes(storage.join(output, "images/notes.txt"), b"a person's")
    assert verify_output(output).orphan_images == tuple(sorted((lost, "images/notes.txt")))
    assert results.sweep(output) == (lost,)
    assert storage.exists(storage.join(output, "images/notes.txt"))

    output, _ = broken("duplicate")
    results.write_block(output, rows({"key": "c"}), epoch=2)
    assert verify_output(output).duplicates == ("c",)

    output, _ = broken("rows")
    proof = verify_output(output, {"a": "f", "b": "other", "x": "f"})
    assert (proof.missing_rows, proof.stale_rows, proof.orphan_rows) == (("x",), ("b",), ("c",))
    assert not proof.ok
    assert "rows not done: x" in proof.text()
    assert proof.text().endswith("not ok")


def test_the_digest_is_of_the_outcome_not_of_its_order_or_files(tmp_path: Path) -> None:
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    results.write_block(one, rows({"key": "a", "sha256": "1"}, {"key": "b", "sha256": "2"}), epoch=1)
    results.write_block(two, rows({"key": "b", "sha256": "2"}), epoch=4)
    results.write_block(two, rows({"key": "a", "sha256": "1"}), epoch=5)
    assert verify_output(one, "ab").digest == verify_output(two, "ab").digest
    results.write_block(two, rows({"key": "a", "sha256": "3"}), epoch=6)
    assert verify_output(one, "ab").digest != verify_output(two, "ab").digest


def test_the_images_digest_is_what_anybody_computes_from_the_plainly_read_table(tmp_path: Path) -> None:
    output = str(tmp_path)
    finished(output)
    results.compact(output)
    table = plainly(output)
    pairs = sorted(zip(table["key"].to_pylist(), table["sha256"].to_pylist(), strict=True))
    proof = verify_output(output)
    assert proof.images_digest == hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
    assert proof.text().splitlines()[-2] == f"sha256 of the sorted (key, sha256): {proof.images_digest}"


def test_the_images_digest_is_of_keys_and_images_and_of_nothing_else(tmp_path: Path) -> None:
    def digest(name: str, *answers: Mapping[str, Any]) -> str:
        results.write_block(str(tmp_path / name), rows(*answers), epoch=1)
        return verify_output(str(tmp_path / name), "ab").images_digest

    plain = digest("plain", {"key": "a", "sha256": "1"}, {"key": "b", "sha256": None, "status": FAILED_TO_EDIT})
    assert plain == digest("other", {"key": "b", "status": "filtered"}, {"key": "a", "sha256": "1", "label": "x"})
    assert plain != digest("image", {"key": "a", "sha256": "2"}, {"key": "b"})
    assert plain != digest("key", {"key": "a", "sha256": "1"}, {"key": "c"})
    assert verify_output(str(tmp_path / "none"), []).images_digest == hashlib.sha256(b"[]").hexdigest()


def test_a_proof_left_beside_the_results_says_what_was_found_by_which_version_and_when(place: str) -> None:
    finished(place)
    before = datetime.now(UTC).replace(microsecond=0)
    proof = verify_output(place)
    assert write_proof(place, proof, "1.2") == storage.join(place, "proof.json")
    left = json.loads(storage.read_bytes(storage.join(place, "proof.json")))
    assert before <= datetime.fromisoformat(left.pop("when")) <= datetime.now(UTC)
    assert set(left.pop("findings").values()) == {0}
    assert left == {
        "ok": True,
        "rows": 3,
        "statuses": {SUCCESS: 2, FAILED_TO_EDIT: 1},
        "images": 3,
        "digest": proof.digest,
        "images_digest": proof.images_digest,
        "epoch": 1,
        "retouch": "1.2",
    }
    results.write_block(place, rows({"key": "c"}), epoch=7)
    write_proof(place, verify_output(place), "1.2")
    again = json.loads(storage.read_bytes(storage.join(place, "proof.json")))
    assert (again["ok"], again["epoch"], again["findings"]["keys answered more than once"]) == (False, 7, 1)


def test_a_run_with_a_limit_does_not_forget_what_was_asked_and_answered_before(tmp_path: Path) -> None:
    output = str(tmp_path)

    def ask(*keys: str) -> None:
        results.write_requests(output, pa.table({"key": list(keys), "fingerprint": ["f"] * len(keys)}))

    ask("a", "b", "gone")
    results.write_block(output, rows({"key": "a"}, {"key": "b"}), epoch=1)
    ask("a")
    assert results.read_requests(output).to_pydict() == {"key": ["a", "b"], "fingerprint": ["f", "f"]}
    assert verify_output(output).ok
