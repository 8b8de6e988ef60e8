"""Job fields from the command line: ``--set a.b=value``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from retouch.errors import ConfigError


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of plain job data with ``a.b=value`` strings applied.

    Raises:
        ConfigError: an override is not of that form, or its path does not exist.
    """
    changed = copy.deepcopy(dict(data))
    for override in overrides:
        path, sep, text = override.partition("=")
        if not sep or not all(path.strip().split(".")):
            raise ConfigError(f"--set {override!r} is not of the form a.b=value")
        _set(changed, path.strip().split("."), text, f"--set {override!r}")
    return changed


def _set(data: dict[str, Any], keys: Sequence[str], text: str, origin: str) -> None:
    node: Any = data
    for key in keys[:-1]:
        node = _child(node, key, origin)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: the value is not YAML: {' '.join(str(error).split())}") from None
    if isinstance(node, list):
        node[_index(node, keys[-1], origin)] = value
    else:
        node[keys[-1]] = value


def _child(node: Any, key: str, origin: str) -> dict[str, Any] | list[Any]:
    """Return the mapping or list at a key of a mapping, made if it is missing, or at an index of a list."""
    found = node[_index(node, key, origin)] if isinstance(node, list) else node.setdefault(key, {})
    if not isinstance(found, dict | list):
        raise ConfigError(f"{origin}: {key!r} holds a value, not a mapping")
    return found


def _index(node: Sequence[Any], key: str, origin: str) -> int:
    if not key.isdecimal() or int(key) >= len(node):
        raise ConfigError(f"{origin}: {key!r} is no entry of a list of {len(node)}; the first is 0")
    return int(key)
