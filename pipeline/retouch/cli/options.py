"""Options and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

JobFile = Annotated[str, typer.Argument(help="Job file (YAML): local path or any fsspec URL.")]
OutputFolder = Annotated[str, typer.Argument(help="A run's output folder: local path, s3:// or any fsspec URL.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field of the job, such as a.b=1. Repeatable."),
]
Executor = Annotated[str, typer.Option(help="ray, or local (in this process, without Ray).")]
Cluster = Annotated[
    str | None, typer.Option(help="Connect to a running Ray cluster: auto, or ray://HOST:10001. Default: start one.")
]
Date = Annotated[
    str | None, typer.Option(help="Value of {date} in addresses, YYYY-MM-DD. Default: RETOUCH_DATE, else today in UTC.")
]
Prices = Annotated[
    str | None, typer.Option(help="Price table (YAML). Default: RETOUCH_PRICES, else the table of this package.")
]


def executor_named(name: str) -> Literal["ray", "local"]:
    """Return the executor of this name, or raise ConfigError if there is none."""
    from retouch.errors import ConfigError

    if name not in ("ray", "local"):
        raise ConfigError(f"no executor named {name!r}; use ray or local")
    return "ray" if name == "ray" else "local"
