"""``retouch plugins``: the installed editors, metrics and sinks, and their parameters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retouch.jobs.plugin_catalog import Plugin


def plugins(
    name: Annotated[str | None, typer.Argument(help="Show this plug-in only, with all its parameters.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of objects.")] = False,
) -> None:
    """List installed editors, metrics, set metrics and sinks: package, inputs, parameters and result columns."""
    from retouch.jobs.plugin_catalog import installed, named

    found = installed() if name is None else named(name)
    if as_json:
        typer.echo(json.dumps([plugin.record() for plugin in found], indent=1))
    elif name is None:
        _print_all(found)
    else:
        for plugin in found:
            _print_one(plugin)


def _print_all(found: Sequence[Plugin]) -> None:
    kind = ""
    for plugin in found:
        if plugin.kind != kind:
            typer.echo(f"{plugin.kind.replace('_', ' ')}:")
            kind = plugin.kind
        typer.echo(f"  {plugin.name:22} {plugin.package:20} {plugin.value}")
        for line in _facts(plugin):
            typer.echo(f"      {line}")
        if plugin.params:
            typer.echo(f"      params: {', '.join(field.path for field in plugin.params)}")


def _print_one(plugin: Plugin) -> None:
    typer.echo(f"{plugin.name} ({plugin.kind.replace('_', ' ')}), {plugin.package}, {plugin.value}")
    if plugin.about:
        typer.echo(plugin.about)
    for line in _facts(plugin):
        typer.echo(line)
    for field in plugin.params:
        default = f" [{field.default}]" if field.default else ""
        typer.echo(
            f"  {field.path}: {field.type.replace('`', '')}{default}{'; ' if field.meaning else ''}{field.meaning}"
        )


def _facts(plugin: Plugin) -> list[str]:
    if plugin.error is not None:
        return [f"does not import: {plugin.error}"]
    facts = []
    if plugin.kind == "editors":
        facts.append(f"version {plugin.version}, reads image{''.join(f', {name}' for name in plugin.inputs)}")
    if plugin.columns:
        facts.append(f"columns: {', '.join(f'{name} ({kind})' for name, kind in plugin.columns.items())}")
    return facts
