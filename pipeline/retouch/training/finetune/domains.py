"""Named pairs of texts, what an image is and what it becomes, as data. Knows neither CLIP nor what tunes towards them.

The 54 names are those of DiffusionCLIP's published list, so that a published run's ``edit_attr`` names the same edit
here; ``jocker`` is spelt as there. Where the publication gives a name alone the words are ours, so a model tuned with
them is another model than the published one of that name. ``grey_hair`` leads to grey hair: in the published list it
leads to red hair, which is what ``red_hair`` is for. The published code also speaks of ``male`` and ``female`` but has
no texts for them; neither have we.
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
    target: str  # what they come to show: ``Neanderthal``


@cache
def domains() -> Mapping[str, Domain]:
    """All of them by name, in the file's order."""
    pairs: dict[str, tuple[str, str]] = json.loads(_FILE.read_text(encoding="utf-8"))
    return MappingProxyType({name: Domain(name, *pair) for name, pair in pairs.items()})


def domain(name: str) -> Domain:
    """The one of this name.

    Raises:
        ConfigError: there is none; the line has the names nearest to it.
    """
    if found := domains().get(name):
        return found
    near = get_close_matches(name.lower(), domains(), n=5, cutoff=0.5)
    known = f"near it: {', '.join(near)}" if near else f"there are: {', '.join(domains())}"
    raise ConfigError(f"no domain named {name!r}; {known}; or give source and target texts of your own")
