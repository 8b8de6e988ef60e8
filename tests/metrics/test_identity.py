from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from retouch.errors import WeightsError
from retouch.metrics.identity import IdentitySimilarity
from retouch.models.arcface import IrSe50
from retouch.plugins import Metric, column_types
from retouch.schema import Batch, Pixels

SIZE = 64


@pytest.fixture(scope="module")
def metric(tmp_path_factory: pytest.TempPathFactory) -> IdentitySimilarity:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = IrSe50().state_dict()
    path = tmp_path_factory.mktemp("arcface") / "model_ir_se50.pth"
    torch.save({name: v.half() if v.is_floating_point() else v for name, v in state.items()}, path)
    return IdentitySimilarity.load({"arcface": str(path)}, "cpu")


def pixels(seed: int, count: int = 3) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def values(metric: IdentitySimilarity, image: Pixels, edited: Pixels) -> list[float]:
    mask = np.ones(image.shape[:3], dtype=bool)
    batch = Batch(image, mask, [""] * len(image), seed=list(range(len(image))))
    return [score["identity_similarity"] for score in metric.score_batch(batch, edited)]


def test_it_keeps_the_contract_of_a_metric(metric: IdentitySimilarity) -> None:
    assert isinstance(metric, Metric)
    assert list(column_types(metric.columns)) == ["identity_similarity"]


@pytest.mark.slow
@torch.no_grad()
def test_it_is_the_cosine_of_the_two_vectors(metric: IdentitySimilarity) -> None:
    a, b = pixels(0, 1), pixels(1, 1)
    u, v = (metric.arcface.embed(torch.from_numpy(x).permute(0, 3, 1, 2) / 127.5 - 1)[0] for x in (a, b))
    assert values(metric, a, b) == [pytest.approx((u @ v).item(), abs=1e-6)]
    assert values(metric, a, b)[0] < 1 - 1e-5
    assert values(metric, a, a) == [pytest.approx(1.0, abs=1e-6)]


def test_what_is_no_face_does_not_count(metric: IdentitySimilarity) -> None:
    image, edited = pixels(0, 1), pixels(0, 1)
    edited[:, :9] = edited[:, 56:] = edited[:, :, :8] = edited[:, :, 55:] = 0
    assert values(metric, image, edited) == values(metric, image, image)


@pytest.mark.slow
def test_a_score_does_not_depend_on_its_batch_mates(metric: IdentitySimilarity) -> None:
    image, edited = pixels(0), pixels(1)
    together = values(metric, image, edited)
    assert together == [values(metric, image[i : i + 1], edited[i : i + 1])[0] for i in range(3)]
    assert len(set(together)) == 3


def test_arrays_that_may_not_be_written_to_are_scored_as_well(metric: IdentitySimilarity) -> None:
    image, edited = pixels(0, 1), pixels(1, 1)
    expected = values(metric, image, edited)
    image.flags.writeable = edited.flags.writeable = False  # as Ray hands them out
    assert values(metric, image, edited) == expected


def test_without_the_network_it_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"role 'arcface' \(model_ir_se50\.pth\)"):
        IdentitySimilarity.load({"clip": "clip.safetensors"}, "cpu")
    with pytest.raises(WeightsError, match="no such file"):
        IdentitySimilarity.load({"arcface": str(tmp_path / "model_ir_se50.pth")}, "cpu")
