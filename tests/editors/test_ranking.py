"""Candidates are ranked by their distance to the prompt, inside the mask alone."""

from __future__ import annotations

import pytest
import torch
from retouch.editors.ranking import PromptDistance
from retouch.models.clip import load_clip
from retouch.models.embedded.data import to_tensor
from retouch.models.embedded.scenes import HELD_OUT, draw_scene
from retouch.models.weights import resolve

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranker() -> PromptDistance:
    return PromptDistance(load_clip(resolve("embedded:shapes").files["clip"], "cpu"))


def other_than(colour: str) -> str:
    return "a purple cross" if colour != "purple" else "a green circle"


def test_the_prompt_of_what_is_shown_is_nearest(ranker: PromptDistance) -> None:
    nearest = 0
    for seed in range(HELD_OUT, HELD_OUT + 10):
        scene = draw_scene(seed, 32)
        image = to_tensor(scene.image[None].copy())[0]
        shown = scene.objects[0]
        region = torch.tensor(shown.mask)[None].float()
        right = ranker.of(image, region, f"a {shown.colour} {shown.shape}")
        wrong = ranker.of(image, region, other_than(shown.colour))
        assert right is not None
        assert wrong is not None
        nearest += right < wrong
    assert nearest >= 8


def test_only_the_mask_counts_and_an_empty_prompt_ranks_nothing(ranker: PromptDistance) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 32, 32, generator=generator) * 2 - 1
    mask = torch.zeros(1, 32, 32)
    mask[:, 8:24, 8:24] = 1
    other = torch.where(mask.bool(), image, -image)
    assert ranker.of(image, mask, "a red circle") == ranker.of(other, mask, "a red circle")
    assert ranker.of(image, mask, "  ") is None


def test_a_long_prompt_ranks_by_its_beginning(ranker: PromptDistance) -> None:
    image = torch.zeros(3, 32, 32)
    assert ranker.of(image, torch.ones(1, 32, 32), "a red circle and " * 40) is not None
