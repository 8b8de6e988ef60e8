"""Sentence templates for CLIP prompts.

An average over many sentences depends less on the wording of one (Radford et al. 2021, section 3.1.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from retouch.errors import ConfigError

SLOT: Final = "{}"
PLAIN: Final = (SLOT,)  # the text as it is

# DiffusionCLIP averages over OpenAI's templates without this one.
_EXCLUDED: Final = "a photo of many {}."


def imagenet_templates() -> tuple[str, ...]:
    """Return OpenAI's ImageNet templates without "a photo of many {}.": the 79 of DiffusionCLIP's losses."""
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    sentences = (template(SLOT) for template in OPENAI_IMAGENET_TEMPLATES)
    return tuple(sentence for sentence in sentences if sentence != _EXCLUDED)


def fill(templates: Sequence[str], text: str) -> list[str]:
    """Return each template with ``text`` in its one ``{}``; braces within the text stay.

    Raises:
        ConfigError: a template has no ``{}``, or several.
    """
    for template in templates:
        if template.count(SLOT) != 1:
            raise ConfigError(f"template {template!r} has {template.count(SLOT)} {{}}; it needs exactly one")
    return [template.replace(SLOT, text) for template in templates]
