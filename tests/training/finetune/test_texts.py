from __future__ import annotations

from collections.abc import Sequence

import torch
from retouch.training.finetune.texts import Texts, directions
from torch import Tensor

PAIR, OTHER = Texts("Dog", "Bear"), Texts("Dog", "Wolf")


class Reader:
    """Turns a text into numbers of its own; notes what it reads."""

    def __init__(self) -> None:
        self.read: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> Tensor:
        self.read.append(list(texts))
        drawn = [torch.randn(8, generator=torch.Generator().manual_seed(sum(text.encode()))) for text in texts]
        return 3 * torch.stack(drawn)


def test_each_image_gets_its_own_pairs_direction_and_target() -> None:
    direction, target = directions([PAIR, OTHER, PAIR], Reader(), "none")
    assert direction.shape == target.shape == (3, 8)
    torch.testing.assert_close(direction.norm(dim=1), torch.ones(3))
    assert torch.equal(direction[0], direction[2])
    assert not torch.equal(direction[0], direction[1])
    alone = directions([OTHER], Reader(), "none")
    assert torch.equal(direction[1:2], alone[0])
    assert torch.equal(target[1:2], alone[1])


def test_a_plain_texts_direction_is_the_difference_of_the_two_unit_vectors() -> None:
    reader = Reader()
    direction, target = directions([PAIR], reader, "none")
    source, bear = (torch.nn.functional.normalize(reader([text]), dim=1) for text in ("Dog", "Bear"))
    torch.testing.assert_close(direction, torch.nn.functional.normalize(bear - source, dim=1))
    torch.testing.assert_close(target, bear)


def test_equal_pairs_are_read_once_one_text_at_a_time_in_79_phrasings() -> None:
    reader = Reader()
    directions([PAIR] * 5, reader, "imagenet")
    assert len(reader.read) == 2 * 79
    assert all(len(texts) == 1 for texts in reader.read)
    assert reader.read[0] == ["a bad photo of a Dog."]


def test_two_equal_texts_have_no_direction() -> None:
    direction, _ = directions([Texts("Dog", "Dog")], Reader(), "imagenet")
    assert not direction.any()
