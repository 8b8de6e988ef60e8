"""A checkpoint is recognised by the loader that reads it, not by its file name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from retouch.errors import WeightsError
from retouch.models.recognize import convert, read_checkpoint, recognize
from safetensors.torch import save_file

from tests.helpers.tiny_clip import write_openai_layout


@pytest.mark.parametrize("archive", [True, False])
def test_a_clip_is_known_in_either_of_its_forms(tmp_path: Path, archive: bool) -> None:
    source, model = write_openai_layout(tmp_path, archive)
    line = convert(source, str(tmp_path / "net.safetensors"))
    assert line == "an OpenAI CLIP: role clip"
    state = read_checkpoint(str(tmp_path / "net.safetensors"))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_what_only_looks_like_one_is_named_with_the_loaders_reason(tmp_path: Path) -> None:
    state = {"time_embed.0.weight": torch.ones(4, 3)}
    save_file(state, tmp_path / "net.safetensors")
    line = recognize(str(tmp_path / "net.safetensors"), state)
    assert line.startswith("looks like a guided-diffusion UNet, but does not load as one: ")
    assert "is a guided-diffusion UNet of 3 channels" in line


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"a": Planted()}, tmp_path / "net.pt")
    with pytest.raises(WeightsError, match="was not opened"):
        convert(str(tmp_path / "net.pt"), str(tmp_path / "net.safetensors"))
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "net.safetensors").exists()
