"""Fields of a job from outside its file: ``--set a.b=value``, and variables of the environment. Knows no field.

``RETOUCH_JOB__editor__params__timesteps=25`` is ``--set editor.params.timesteps=25``: two underscores are a dot, case
is kept. The command line wins over the environment, and the environment over the file.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from retouch.errors import ConfigError

PREFIX: Final = "RETOUCH_JOB__"


def overridden(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Plain job data with ``a.b=value`` strings over it.

    Raises:
        ConfigError: one is not of that form, or names no place.
    """
    changed = copy.deepcopy(dict(data))
    for override in overrides:
        path, sep, text = override.partition("=")
        if not sep or not all(path.strip().split(".")):
            raise ConfigError(f"--set {override!r} is not of the form a.b=value")
        _set(changed, path.strip().split("."), text, f"--set {override!r}")
    return changed


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that set a field of a job, by name, in order."""
    return {name: environ[name] for name in sorted(environ) if name.startswith(PREFIX)}


def from_environment(data: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    """Plain job data with the environment's fields over it.

    Args:
        data: of the job file.
        variables: what ``environment`` found.

    Raises:
        ConfigError: a variable that names no place, or whose value is not YAML.
    """
    changed = copy.deepcopy(dict(data))
    for name, text in variables.items():
        keys = name.removeprefix(PREFIX).split("__")
        if not all(keys):
            raise ConfigError(f"the variable {name} names no field; write {PREFIX}editor__params__timesteps")
        _set(changed, keys, text, f"the variable {name}")
    return changed


def _set(data: dict[str, Any], keys: Sequence[str], text: str, whose: str) -> None:
    node: Any = data
    for key in keys[:-1]:
        node = _inside(node, key, whose)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{whose}: the value is not YAML: {' '.join(str(error).split())}") from None
    if isinstance(node, list):
        _inside(node, keys[-1], whose, anything=True)
        node[int(keys[-1])] = value
    else:
        node[keys[-1]] = value


def _inside(node: Any, key: str, whose: str, anything: bool = False) -> Any:
    """What a key of a mapping or a number of a list holds: something to go on in, unless ``anything`` will do."""
    if isinstance(node, list):
        if not key.isdecimal() or int(key) >= len(node):
            raise ConfigError(f"{whose}: {key!r} is no entry of a list of {len(node)}; the first is 0")
        found = node[int(key)]
    else:
        found = node.setdefault(key, {})
    if not anything and not isinstance(found, dict | list):
        raise ConfigError(f"{whose}: {key!r} holds a value, not a mapping")
    return found
