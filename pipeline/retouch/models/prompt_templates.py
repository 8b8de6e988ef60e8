"""Sentences that a word is put into before CLIP reads it. Knows no CLIP and no loss.

An average over many sentences hangs less on the wording of one (Radford et al. 2021, section 3.1.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from retouch.errors import ConfigError

SLOT: Final = "{}"
PLAIN: Final = (SLOT,)  # the text as it is

# DiffusionCLIP averages over OpenAI's templates without this one.
_LEFT_OUT: Final = "a photo of many {}."


def imagenet_templates() -> tuple[str, ...]:
    """OpenAI's ImageNet templates but for "a photo of many {}.", in their order: the 79 of DiffusionCLIP's losses."""
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES  # here: it takes seconds

    sentences = (template(SLOT) for template in OPENAI_IMAGENET_TEMPLATES)
    return tuple(sentence for sentence in sentences if sentence != _LEFT_OUT)


def fill(templates: Sequence[str], text: str) -> list[str]:
    """``text`` in each template's one ``{}``, as it is written: braces within it are its own.

    Raises:
        ConfigError: a template has no place for a text, or several.
    """
    for template in templates:
        if template.count(SLOT) != 1:
            raise ConfigError(f"template {template!r} has {template.count(SLOT)} times {{}}; it needs exactly one")
    return [template.replace(SLOT, text) for template in templates]
