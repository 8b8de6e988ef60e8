"""Latents are computed once a name, at one shape, and what is forgotten is computed again."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from retouch.editors.diffusionclip.inversion_cache import MAX_LATENTS, Inversions


class Places:
    """An inversion whose latents are the names' lengths; notes what it was asked for."""

    def __init__(self, names):
        self.names, self.asked = names, []

    def __call__(self, places):
        self.asked.append(places)
        return torch.tensor([float(len(self.names[place])) for place in places])[:, None]


def of(inversions, names, memory=None):
    places = Places(names)
    latents = inversions.of(names, places, memory)
    assert latents[:, 0].tolist() == [len(name) for name in names]
    return places.asked


NAMES = ["a", "bb", "ccc", "dddd"]


@given(st.lists(st.lists(st.sampled_from(NAMES), min_size=4, max_size=4), max_size=5))
def test_every_name_is_asked_for_once_in_passes_of_the_whole_shape(batches):
    inversions, asked = Inversions(), []
    for names in batches:
        passes = of(inversions, names)
        assert len(passes) <= 1
        for places in passes:
            assert len(places) == len(names)
            asked += [names[place] for place in dict.fromkeys(places)]
    assert sorted(asked) == sorted({name for names in batches for name in names})


def test_the_name_used_longest_ago_is_forgotten():
    inversions = Inversions(max_latents=2)
    assert of(inversions, ["a", "bb"]) == [[0, 1]]
    assert of(inversions, ["a", "a"]) == []
    assert of(inversions, ["ccc", "ccc"]) == [[0, 0]]
    assert of(inversions, ["a", "a"]) == []
    assert of(inversions, ["bb", "bb"]) == [[0, 0]]


def test_a_batch_larger_than_the_memory_is_whole():
    assert of(Inversions(max_latents=1), NAMES) == [[0, 1, 2, 3]]
    assert MAX_LATENTS > 1


class Shelf(dict):
    def put(self, name, latent):
        self[name] = latent


def test_a_store_is_read_first_and_written_afterwards():
    shelf = Shelf()
    assert of(Inversions(), ["a", "bb", "bb"], shelf) == [[0, 1, 1]]
    assert sorted(shelf) == ["a", "bb"]
    again = Inversions()
    assert of(again, ["bb", "a", "ccc"], shelf) == [[2, 2, 2]]
    shelf.clear()
    assert of(again, ["bb", "a", "ccc"], shelf) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_latent_that_is_not_finite_is_given_and_not_kept(value):
    inversions, shelf = Inversions(), Shelf()
    for _ in range(2):
        latents = inversions.of(["a", "bb"], lambda places: torch.tensor([[value], [2.0]]), shelf)
        assert not latents[0].isfinite()
    assert sorted(shelf) == ["bb"]
