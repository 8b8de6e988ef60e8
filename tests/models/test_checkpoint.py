from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from retouch.errors import WeightsError
from retouch.models.checkpoint import load_strictly, read_state_dict
from safetensors.torch import save_file
from torch import nn

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.0, -1.0])}


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def one_line(error: pytest.ExceptionInfo[WeightsError], path: Path) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def written(path: Path, layout: str) -> str:
    if layout == "safetensors":
        save_file(STATE, path)
    elif layout == "nested":
        torch.save({"state_dict": STATE, "epoch": 3}, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=layout != "old")
    return str(path)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("a.safetensors", "safetensors"),
        ("a.pt", "flat"),
        ("a.pth", "flat"),
        ("a.ckpt", "nested"),
        ("old.pt", "old"),
    ],
)
def test_every_layout_gives_the_same_tensors(tmp_path: Path, name: str, layout: str) -> None:
    state = read_state_dict(written(tmp_path / name, layout))
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int | None) -> None:
    path, trace = tmp_path / "bomb.pt", tmp_path / "it-ran"
    payload = {**STATE, "extra": Bomb(trace)}
    if protocol is None:
        torch.save(payload, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(trace), protocol=protocol))
    with pytest.raises(WeightsError) as error:
        read_state_dict(str(path))
    assert "was not opened" in one_line(error, path)
    assert not trace.exists()


@pytest.mark.parametrize(("name", "layout"), [("a.safetensors", "safetensors"), ("a.pt", "flat"), ("old.pt", "old")])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.95])
def test_a_truncated_file_is_one_clear_line(tmp_path: Path, name: str, layout: str, kept: float) -> None:
    path = tmp_path / name
    whole = Path(written(path, layout)).read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(WeightsError) as error:
        read_state_dict(str(path))
    one_line(error, path)


def test_a_web_page_saved_as_a_checkpoint_is_one_clear_line(tmp_path: Path) -> None:
    for name in ("page.pt", "page.safetensors"):
        path = tmp_path / name
        path.write_text("<html>404 not found</html>")
        with pytest.raises(WeightsError) as error:
            read_state_dict(str(path))
        one_line(error, path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    with pytest.raises(WeightsError, match="no such file") as error:
        read_state_dict(str(path))
    one_line(error, path)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {}, {"epoch": 3}, {"state_dict": {}}, torch.zeros(2)])
def test_what_is_not_names_and_tensors_is_no_state_dict(tmp_path: Path, content: object) -> None:
    path = tmp_path / "odd.pt"
    torch.save(content, path)
    with pytest.raises(WeightsError, match="no state dict") as error:
        read_state_dict(str(path))
    one_line(error, path)


def test_a_float16_file_fills_a_meta_module_in_float32() -> None:
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    load_strictly(module, {k: v.half() for k, v in STATE.items()}, "a.pt", "a layer")
    assert module.weight.dtype == torch.float32
    assert torch.equal(module(torch.ones(1, 3)), torch.tensor([[4.0, 11.0]]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bias": None}, "1 missing (first: bias)"),
        ({"gain": torch.zeros(1)}, "1 unexpected (first: gain)"),
        ({"bias": torch.zeros(3)}, "1 of another shape (first: bias (3,) for (2,))"),
    ],
)
def test_every_name_and_shape_must_fit(change: dict[str, torch.Tensor | None], words: str) -> None:
    state = {name: value for name, value in {**STATE, **change}.items() if value is not None}
    with pytest.raises(WeightsError) as error:
        load_strictly(nn.Linear(3, 2), state, "a.pt", "a layer")
    assert str(error.value) == f"a.pt is not a layer: {words}"
