from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from retouch.errors import ConfigError
from retouch.execution.evaluation import metric_states
from retouch.execution.evaluation.metric_states import StoredState
from safetensors.numpy import save_file


def test_a_state_comes_back_bit_for_bit_with_its_count_its_id_and_its_failures(place: str) -> None:
    state = {"mean": np.random.default_rng(0).standard_normal(5), "count": np.array([7]), "at": np.ones((2, 3)).T}
    metric_states.write(
        f"{place}/one.safetensors", StoredState(state, 7, {"metric": "fid", "options": {"k": 2}}, {"row é": "gone"})
    )
    found = metric_states.read(f"{place}/one.safetensors")
    assert (found.images, found.id, found.failed) == (7, {"metric": "fid", "options": {"k": 2}}, {"row é": "gone"})
    assert found.arrays.keys() == state.keys()
    assert all(np.array_equal(found.arrays[name], state[name]) for name in state)


def test_arrays_of_somebody_else_have_no_id(tmp_path: Path) -> None:
    save_file({"means": np.zeros(3)}, tmp_path / "theirs.safetensors")
    found = metric_states.read(str(tmp_path / "theirs.safetensors"))
    assert (found.images, found.id, list(found.arrays)) == (0, {}, ["means"])


def test_a_state_of_no_image_can_be_kept(tmp_path: Path) -> None:
    metric_states.write(str(tmp_path / "none.safetensors"), StoredState({}, 0, {"metric": "fid"}, {"a": "broken"}))
    found = metric_states.read(str(tmp_path / "none.safetensors"))
    assert (found.images, dict(found.arrays), found.failed) == (0, {}, {"a": "broken"})


def test_what_is_no_state_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "gmm.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ConfigError, match=r"gmm\.safetensors holds no state of a metric"):
        metric_states.read(str(tmp_path / "gmm.safetensors"))
    with pytest.raises(ConfigError, match=r"no state at .*gone\.safetensors"):
        metric_states.read(str(tmp_path / "gone.safetensors"))


def test_notes_of_shards_add() -> None:
    parts = [StoredState({}, 3, {}, {"a": "x"}), StoredState({}, 4, {}, {"b": "y"})]
    assert metric_states.merge_counts(parts) == (7, {"a": "x", "b": "y"})


def test_equal_parts_have_equal_digests_and_others_have_not() -> None:
    assert metric_states.digest({"a": 1, "b": 2}, [1]) == metric_states.digest({"b": 2, "a": 1}, [1])
    assert (
        len({metric_states.digest({"a": 1}), metric_states.digest({"a": 2}), metric_states.digest({"a": 1}, [])}) == 3
    )
