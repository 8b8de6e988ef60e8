"""The trainers run and resume; that they learn is what the shipped weights show."""

from pathlib import Path

import pytest
import torch
from embedded_models.train_clip import ClipTraining, train_clip
from embedded_models.train_judge import JudgeTraining, judge_example, train_judge
from embedded_models.train_unet import UNetTraining, learning_rate, train_unet
from retouch.models.clip import load_clip
from retouch.models.pixel_unet import load_pixel_unet


def test_the_unet_trains_saves_and_resumes(tmp_path: Path) -> None:
    options = UNetTraining(minutes=0.01, scenes=16, batch=4)
    train_unet(tmp_path / "out", tmp_path, "cpu", options)
    first = torch.load(tmp_path / "unet.ckpt", weights_only=True)["at"]
    longer = UNetTraining(minutes=first[1] / 60 + 0.01, scenes=16, batch=4)  # a slow machine's one step took its time
    train_unet(tmp_path / "out", tmp_path, "cpu", longer)
    again = torch.load(tmp_path / "unet.ckpt", weights_only=True)["at"]
    assert again[0] > first[0] > 0
    model, config = load_pixel_unet(tmp_path / "out" / "unet.safetensors")
    assert config["image_size"] == 32
    assert model(torch.zeros(1, 3, 32, 32), torch.tensor([5])).isfinite().all()


def test_the_judge_trains_and_saves(tmp_path: Path) -> None:
    score = train_judge(tmp_path, "cpu", JudgeTraining(crops=128, epochs=1, batch=32))
    assert 0 <= score <= 1
    assert (tmp_path / "judge.safetensors").is_file()


def test_the_clip_trains_and_is_hardened(tmp_path: Path) -> None:
    options = ClipTraining(minutes=0.02, places=64, batch=16)
    clip = train_clip(tmp_path, "cpu", options)
    train_clip(tmp_path, "cpu", options, network=lambda x, t: x, start=clip.state_dict())
    assert load_clip(str(tmp_path / "clip.safetensors")).image_size == 64


@pytest.mark.parametrize(("step", "progress", "share"), [(0, 0.0, 1 / 300), (400, 0.5, 1.0), (400, 1.0, 0.0)])
def test_the_learning_rate_warms_up_and_decays(step: int, progress: float, share: float) -> None:
    options = UNetTraining()
    assert learning_rate(step, progress, options) == pytest.approx(share * options.learning_rate)


def test_a_judges_place_is_what_its_label_says() -> None:
    for seed in range(200):
        example = judge_example(seed)
        assert example.mask.any()
        if example.kind == "shape":
            assert any((item.shape, item.colour) == (example.shape, example.colour) for item in example.scene.objects)
        else:
            assert "none" in (example.shape, example.colour)
