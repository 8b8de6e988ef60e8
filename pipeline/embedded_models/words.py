"""The captions that the family's CLIP knows, and the byte-pair merges of their words (one to five tokens each)."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Final

from retouch.models.embedded.scenes import COLOURS, GROUNDS, SHAPES, TEXTURES, ground_prompt, object_prompt

CONTEXT_LENGTH: Final = 28  # the longest caption of two shapes has 26 tokens; start and end take two more
BLOB: Final = "blob"  # a shapeless patch, like a failed edit

PROMPTS: Final = tuple(object_prompt(shape, colour) for shape in SHAPES for colour in COLOURS)
BLOBS: Final = tuple(object_prompt(BLOB, colour) for colour in COLOURS)
EMPTY: Final = tuple(ground_prompt(ground, texture) for ground in GROUNDS for texture in TEXTURES)
BANK: Final = (*PROMPTS, *BLOBS, *EMPTY)  # all captions of a place

_WORDS: Final = ("a", "an", "on", "and", "ground", BLOB, *SHAPES, *COLOURS, *GROUNDS, *TEXTURES)


def merges() -> list[str]:
    """Return the merges in order of priority, each ``left right``; words are built from their left."""
    found: dict[str, None] = {}
    for word in sorted(_WORDS, key=len):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        left = parts[0]
        for right in parts[1:]:
            found.setdefault(f"{left} {right}")
            left += right
    return list(found)


def vocabulary_size() -> int:
    """Return the number of tokens: bytes, bytes that end a word, merges, start and end."""
    return 512 + len(merges()) + 2


def write_merges(path: Path) -> None:
    """Write the merges in open_clip's format: gzipped text whose first line is skipped."""
    text = "\n".join(["#version: 0.2", *merges()])  # no newline at the end: it would count as a merge
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
