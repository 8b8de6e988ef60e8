"""Named pairs of texts to fine-tune towards: what the images show, and what they should show.

The 54 names are those of DiffusionCLIP's published list, so that a published run's ``edit_attr`` names the same edit;
``jocker`` is spelt as there. Where only the name is published the texts are ours, so a model tuned with them differs
from the published one of that name. ``grey_hair`` leads to grey hair: in the published list it leads to red hair, which
is what ``red_hair`` is for. ``male`` and ``female`` are missing, because the published code has no texts for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import MappingProxyType

from retouch.errors import ConfigError

_FILE = Path(__file__).with_name("domains.json")


@dataclass(frozen=True)
class Domain:
    """One direction of change."""

    name: str  # ``neanderthal``
    source: str  # what the images show: ``Human``
    target: str  # what they should show: ``Neanderthal``


@cache
def domains() -> Mapping[str, Domain]:
    """Return all domains by name, in the file's order."""
    pairs: dict[str, tuple[str, str]] = json.loads(_FILE.read_text(encoding="utf-8"))
    return MappingProxyType({name: Domain(name, *pair) for name, pair in pairs.items()})


def domain(name: str) -> Domain:
    """Return the domain of this name.

    Raises:
        ConfigError: the name is unknown; the message suggests similar ones.
    """
    if found := domains().get(name):
        return found
    near = get_close_matches(name.lower(), domains(), n=5, cutoff=0.5)
    known = f"near it: {', '.join(near)}" if near else f"there are: {', '.join(domains())}"
    raise ConfigError(f"no domain named {name!r}; {known}; or give source and target texts of your own")
