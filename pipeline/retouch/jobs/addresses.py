"""The addresses in a job: which of its fields hold one, and a walk through all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

# Fields of all kinds of jobs; * is any entry of a list. Each holds a text, or texts in lists and mappings.
FIELDS: Final = (
    ("manifest",),
    ("output",),
    ("latents",),
    ("carry",),
    ("results",),
    ("reference",),
    ("weights",),
    ("editor", "weights"),
    ("metrics", "*", "weights"),
    ("row_metrics", "*", "weights"),
    ("targets", "*", "manifest"),
)
WRITTEN: Final = frozenset({"output", "latents"})  # the others are only read
NO_CARRY: Final = ("auto", "none")  # values of `carry` that are no address


@dataclass(frozen=True)
class Address:
    """An address in a job."""

    field: str  # its path in the job, such as editor.weights.unet or manifest.1
    text: str

    @property
    def is_written(self) -> bool:
        """Whether the job writes there."""
        return self.field in WRITTEN


def addresses(data: Mapping[str, Any]) -> list[Address]:
    """Return all addresses in a job's plain data."""
    found: list[Address] = []

    def collect(field: str, text: str) -> str:
        if field != "carry" or text not in NO_CARRY:
            found.append(Address(field, text))
        return text

    replaced(data, collect)
    return found


def replaced(data: Mapping[str, Any], change: Callable[[str, str], str]) -> dict[str, Any]:
    """Return a job's plain data with each address replaced by what ``change`` makes of its field and its text.

    Values that are no text, which no valid job has there, are kept.
    """
    whole: Any = data
    for path in FIELDS:
        whole = _below(whole, path, "", change)
    return dict(whole)


def _below(node: Any, path: tuple[str, ...], field: str, change: Callable[[str, str], str]) -> Any:
    if not path:
        return _texts(node, field, change)
    if path[0] == "*" and isinstance(node, list | tuple):
        return [_below(entry, path[1:], f"{field}.{number}", change) for number, entry in enumerate(node)]
    if isinstance(node, Mapping) and path[0] in node:
        inner = _below(node[path[0]], path[1:], f"{field}.{path[0]}" if field else path[0], change)
        return {**node, path[0]: inner}
    return node


def _texts(node: Any, field: str, change: Callable[[str, str], str]) -> Any:
    if isinstance(node, Mapping):
        return {name: _texts(inner, f"{field}.{name}", change) for name, inner in node.items()}
    if isinstance(node, list | tuple):
        return [_texts(inner, f"{field}.{number}", change) for number, inner in enumerate(node)]
    return change(field, node) if isinstance(node, str) else node
