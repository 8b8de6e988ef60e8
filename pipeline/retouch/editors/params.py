"""Parameters of a job with a row's own values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from retouch import validation
from retouch.errors import ConfigError

P = TypeVar("P")


def overridden(params: P, values: Mapping[str, Any]) -> P:
    """Return a params dataclass with other values for some of its fields, checked again.

    Raises:
        ConfigError: an unknown name, or a value out of its range.
    """
    if not values:
        return params
    check_names(values, [f.name for f in dataclasses.fields(params)])  # type: ignore[arg-type]
    changed: P = dataclasses.replace(params, **values)  # type: ignore[type-var]
    return changed


def check_names(given: Iterable[str], names: list[str]) -> None:
    """Raise ConfigError for a name that is no parameter."""
    if unknown := sorted(set(given) - set(names)):
        raise ConfigError("; ".join(validation.unknown(f"params.{name}", names) for name in unknown))
