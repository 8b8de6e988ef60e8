"""Captions of drawn scenes in several phrasings, and a CLIP tokenizer with one token per word."""

from __future__ import annotations

import string
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from retouch.models.embedded.scenes import COLOURS, GROUNDS, SHAPES, TEXTURES, ground_prompt, object_prompt

# With start and end. The longest caption of two objects has 17 tokens; an unknown word has one per letter.
MAX_TOKENS: Final = 32
# What is drawn in a mask: the prompt of manifests most often, then its bare form, then other phrasings.
PHRASES: Final = (
    "{a}",
    "{bare}",
    "the {bare}",
    "one {bare}",
    "{shape}, {colour}",
    "a {shape} that is {colour}",
    "a photo of {a}",
    "a drawing of {a}",
    "draw {a}",
    "paint {a} here",
    "add {a}",
    "replace it with {a}",
)
PHRASE_SHARES: Final = np.array([8, 4, *[1] * 10]) / 22
PLACES: Final = (
    "",
    " on {ground}",
    " on a {colour} ground",
    " on {colour}",
)
PLACE_SHARES: Final = (0.7, 0.15, 0.1, 0.05)
PAIRS: Final = ("{first} and {second}", "{first} next to {second}")
EMPTY: Final = ("nothing", "empty", "no object", "an empty ground", "the background", "remove it")
NAMED_GROUND: Final = 0.5  # share of captions of empty places that name the ground
UNKNOWN: Final = 0.1  # share of captions with a word that means nothing, so that unknown words do little harm
WORDS: Final = (
    *("a", "an", "and", "the", "one", "that", "is", "of", "on", "with", "it", "here", "to", "next", "no"),
    *("photo", "drawing", "draw", "paint", "add", "replace", "remove", "nothing", "empty", "object", "background"),
    *("ground", "grey", *SHAPES, *COLOURS, *GROUNDS, *TEXTURES),
)
START: Final = "<|startoftext|>"
END: Final = "<|endoftext|>"


def object_caption(
    rng: np.random.Generator, shape: str, colour: str, ground: str, texture: str, unknown: float = UNKNOWN
) -> str:
    """Return a caption of one object, sometimes with its ground, and a share ``unknown`` with a senseless word."""
    phrase = PHRASES[rng.choice(len(PHRASES), p=PHRASE_SHARES)]
    text = phrase.format(a=object_prompt(shape, colour), bare=f"{colour} {shape}", shape=shape, colour=colour)
    text += _place(rng, ground, texture)
    return _with_unknown(rng, text) if rng.random() < unknown else text


def scene_caption(
    rng: np.random.Generator, objects: Sequence[tuple[str, str]], ground: str, texture: str, part: float = 0.4
) -> str:
    """Return a caption of a whole scene with objects (shape, colour); a share ``part`` of those of two names one."""
    if not objects:
        return ground_prompt(ground, texture) if rng.random() < 0.7 else ground_caption(rng, ground, texture)
    named = [objects[index] for index in rng.permutation(len(objects))]
    if len(named) == 1 or rng.random() < part:
        shape, colour = named[0]
        return object_caption(rng, shape, colour, ground, texture)
    first, second = (object_prompt(*each) if rng.random() < 0.8 else f"{each[1]} {each[0]}" for each in named[:2])
    text = PAIRS[rng.integers(len(PAIRS))].format(first=first, second=second)
    return text + _place(rng, ground, texture)


def ground_caption(rng: np.random.Generator, ground: str, texture: str) -> str:
    """Return a caption of a place without an object."""
    if rng.random() < NAMED_GROUND:
        return (ground_prompt(ground, texture), f"a {ground} ground", f"{texture} {ground}")[rng.integers(3)]
    return EMPTY[rng.integers(len(EMPTY))]


def _place(rng: np.random.Generator, ground: str, texture: str) -> str:
    name = "grey" if ground == "gray" and rng.random() < 0.3 else ground
    place = PLACES[rng.choice(len(PLACES), p=PLACE_SHARES)]
    return place.format(ground=ground_prompt(name, texture), colour=name)


def _with_unknown(rng: np.random.Generator, text: str) -> str:
    word = "".join(rng.choice(list(string.ascii_lowercase), size=rng.integers(3, 8)))
    words = text.split()
    words.insert(int(rng.integers(len(words) + 1)), word)
    return " ".join(words)


def merges(words: Sequence[str] = WORDS) -> list[tuple[str, str]]:
    """Return byte-pair merges, in order of priority, after which each word is one token.

    Later merges never break up an earlier word: whatever it is made of is merged before they apply.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        while len(parts := _split(word, ranks)) > 1:
            ranks[parts[0], parts[1]] = len(ranks)
    return list(ranks)


def _split(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Return a word's tokens: the pair of the lowest rank is merged first, at each of its places."""
    parts = [*word[:-1], f"{word[-1]}</w>"]
    while True:
        known = [pair for pair in pairwise(parts) if pair in ranks]
        if not known:
            return parts
        pair = min(known, key=ranks.__getitem__)
        merged: list[str] = []
        for part in parts:
            if merged and (merged[-1], part) == pair:
                merged[-1] += part
            else:
                merged.append(part)
        parts = merged


def tokenizer() -> Any:
    """Return a ``transformers.CLIPTokenizer`` of the captions' words; all bytes are tokens, so no text is refused."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    found = merges()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(left + right for left, right in found), START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=found, model_max_length=MAX_TOKENS)
