from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from retouch.errors import ConfigError, EditError, WeightsError
from retouch.metrics.clip_preprocess import clip_image
from retouch.metrics.fid import ClipFid, Fid
from retouch.models.clip import Clip, load_clip
from retouch.models.inception import Inception
from retouch.plugins import SetMetric
from retouch.schema import Pixels
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from tests.helpers.tiny_clip import write_own_layout


class Thumbnail(nn.Module):
    """Stands for the Inception network: 12 features of a resized image."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1) * self.scale


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_own_layout(tmp_path_factory.mktemp("clip"))[0]


def both(clip_file: str) -> list[Any]:
    return [Fid(Inception(Thumbnail(), "FID")), ClipFid.load({"clip": clip_file}, "cpu")]


def pictures(seed: int, count: int, high: int = 256) -> list[Pixels]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, high, (32, 32, 3), dtype=np.uint8) // (1 + i % 3) for i in range(count)]


def distance(metric: Any, a: list[Pixels], b: list[Pixels]) -> float:
    x, y = (metric.state(np.stack([metric.features(image) for image in images])) for images in (a, b))
    (value,) = metric.reduce(x, metric.fit(y)).values()
    return float(value)


def test_both_keep_the_contract_and_have_names_and_ids_of_their_own(clip_file: str) -> None:
    fid, clip_fid = both(clip_file)
    assert isinstance(fid, SetMetric)
    assert isinstance(clip_fid, SetMetric)
    assert fid.id["model"] == "FID InceptionV3, pool 2048"
    assert "299 px (bicubic, antialiased" in fid.id["preprocessing"]
    assert "shorter side to 32 px" in clip_fid.id["preprocessing"]
    state = fid.state(np.stack([fid.features(image) for image in pictures(0, 3)]))
    assert list(fid.reduce(state, state)) == ["fid"]
    assert list(clip_fid.reduce(state, state)) == ["fid_clip"]


class ClipFeatures(nn.Module):
    """CLIP's vectors for torchmetrics."""

    num_features = 16

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.see = lambda image: clip.encode_image(clip_image(image, clip, "centre"))[0].double()

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.see(image.permute(1, 2, 0).numpy()) for image in images])


def test_clip_fid_is_torchmetrics_on_the_same_features(clip_file: str) -> None:
    a, b = pictures(0, 40), pictures(1, 50, high=120)
    oracle = FrechetInceptionDistance(feature=ClipFeatures(load_clip(clip_file))).set_dtype(torch.float64)
    oracle.update(torch.tensor(np.stack(b)).permute(0, 3, 1, 2), real=True)
    oracle.update(torch.tensor(np.stack(a)).permute(0, 3, 1, 2), real=False)
    assert distance(ClipFid.load({"clip": clip_file}, "cpu"), a, b) == pytest.approx(float(oracle.compute()), rel=1e-4)


def test_a_set_is_at_no_distance_from_itself_and_at_some_from_another(clip_file: str) -> None:
    a, b = pictures(0, 20), pictures(1, 20, high=100)
    for metric in both(clip_file):
        assert distance(metric, a, a) == pytest.approx(0, abs=1e-6)
        assert distance(metric, a, b) > 1e-3


def test_states_of_shards_merge_to_the_state_of_the_whole(clip_file: str) -> None:
    for metric in both(clip_file):
        x = np.stack([metric.features(image) for image in pictures(0, 12)])
        merged, whole = metric.merge([metric.state(x[:1]), metric.state(x[1:5]), metric.state(x[5:])]), metric.state(x)
        for name in whole:
            np.testing.assert_allclose(merged[name], whole[name], rtol=1e-8, atol=1e-10)


def test_images_of_any_size_and_shape_have_features(clip_file: str) -> None:
    for metric in both(clip_file):
        rng = np.random.default_rng(0)
        shapes = {
            metric.features(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)).shape for h, w in ((9, 40), (300, 7))
        }
        assert len(shapes) == 1


def test_no_reference_or_one_of_other_features_is_said_in_one_line(clip_file: str) -> None:
    fid, clip_fid = both(clip_file)
    a, b = (m.state(np.stack([m.features(image) for image in pictures(0, 3)])) for m in (fid, clip_fid))
    with pytest.raises(ConfigError, match="metric fid compares two sets: give the job a reference"):
        fid.reduce(a, None)
    with pytest.raises(ConfigError, match="12 features here, 16 in the reference"):
        fid.reduce(a, b)


def test_features_that_are_no_numbers_are_an_error() -> None:
    network = Thumbnail()
    network.scale.fill_(torch.inf)
    with pytest.raises(EditError, match="not finite"):
        Fid(Inception(network, "FID")).features(pictures(0, 1)[0])


@pytest.mark.parametrize(("metric", "role"), [(Fid, "inception"), (ClipFid, "clip")])
def test_without_weights_it_says_which(metric: Any, role: str) -> None:
    with pytest.raises(WeightsError, match=f"needs weights of role '{role}'"):
        metric.load({"unet": "unet.safetensors"}, "cpu")
