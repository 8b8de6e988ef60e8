"""Prices of devices per hour: the shipped table, or the user's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import Field, ValidationError

from retouch import storage
from retouch.errors import ConfigError, StorageError
from retouch.jobs.base import Model

VARIABLE: Final = "RETOUCH_PRICES"
SHIPPED: Final = Path(__file__).with_name("prices.yaml")


class Price(Model):
    """Price of one or more devices."""

    names: tuple[str, ...] = Field(min_length=1)
    """Full names as the maker has them; ``cpu`` is one core."""
    per_hour: float = Field(ge=0)
    when: str | None = None
    """Date of the price."""
    source: str | None = None

    @property
    def origin(self) -> str:
        """Source and date, ``(AWS on demand, 2026-06)``; empty if unknown."""
        known = ", ".join(part for part in (self.source, self.when) if part)
        return f"({known})" if known else ""


class Prices(Model):
    """A price table."""

    currency: str = Field(min_length=1)
    devices: tuple[Price, ...] = ()

    def of(self, device: str) -> Price | None:
        """Return the price of a device; None unless the table has exactly this name."""
        wanted = device.strip().lower()
        return next((price for price in self.devices if wanted in (name.lower() for name in price.names)), None)

    def cost(self, device: str, hours: float) -> float | None:
        """Return the cost of ``hours`` of one device; None without a price."""
        price = self.of(device)
        return None if price is None else price.per_hour * hours


def load(uri: str | None = None) -> Prices:
    """Load the price table.

    Args:
        uri: a YAML file on any fsspec URL; default: the one that ``RETOUCH_PRICES`` names, else the shipped one.

    Raises:
        ConfigError: the file is missing, or is not a price table; names the file.
    """
    uri = uri or os.environ.get(VARIABLE) or str(SHIPPED)
    try:
        data: Any = yaml.safe_load(storage.read_bytes(uri))
    except StorageError as error:
        raise ConfigError(f"the price table cannot be read: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"price table {uri} is not YAML: {' '.join(str(error).split())}") from None
    if isinstance(data, dict) and isinstance(data.get("devices"), list):
        data = {**data, "devices": [_dated(entry) for entry in data["devices"]]}
    try:
        return Prices.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "table"
        raise ConfigError(f"price table {uri}: {where}: {problem['msg']}; see {SHIPPED.name} for the form") from None


def unknown(device: str) -> str:
    """Return the message about a device without a price."""
    return f"no price is known for {device!r}: give a table that has it by --prices or {VARIABLE}"


def _dated(entry: Any) -> Any:
    """Turn ``when`` back into text: YAML reads some texts as dates."""
    return {**entry, "when": str(entry["when"])} if isinstance(entry, dict) and entry.get("when") else entry
