"""``retouch plan``: what a job will take and cost, before it is paid for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

if TYPE_CHECKING:
    from retouch.execution.check import Checkup
    from retouch.execution.plan import Plan
    from retouch.execution.planning.forecast import Forecast, Measured, Prediction, Span
    from retouch.execution.planning.strata import Strata
    from retouch.jobs.prices import Prices

SAMPLE: Final = 200  # rows left that are looked at


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(plan)


def plan(
    job: Annotated[str, typer.Argument(help="Job file (YAML).")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=value. Repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Of the manifest's first N rows only.")] = None,
    sample: Annotated[int, typer.Option(min=1, help="Look at N of the rows left, the same ones every time.")] = SAMPLE,
    all_: Annotated[bool, typer.Option("--all", help="Look at all rows left.")] = False,
    gpus: Annotated[str | None, typer.Option(help="Predict for so many GPUs (actors): N, or N,N,...")] = None,
    prices: Annotated[str | None, typer.Option(help="Price table (YAML); else RETOUCH_PRICES, else ours.")] = None,
    executor: Annotated[str, typer.Option(help="Probe through ray, or local (in this process).")] = "ray",
    address: Annotated[str | None, typer.Option(help="A running cluster: auto, or ray://host:10001.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
    date: Annotated[
        str | None, typer.Option(help="{date} in addresses: YYYY-MM-DD; else RETOUCH_DATE, or today.")
    ] = None,
) -> None:
    """Rows left, rows that would fail, hours, money, bytes and wall time, from a few real passes. Edits nothing."""
    from retouch.errors import ConfigError
    from retouch.execution.incremental import look_back
    from retouch.execution.plan import make_plan, refuse_another_job, tries
    from retouch.jobs.config import EditJob, load_job
    from retouch.jobs.prices import load
    from retouch.outputs.carry_over import answered_again

    if executor not in ("ray", "local"):
        raise ConfigError(f"no executor named {executor!r}; there are: ray, local")
    counts, table = _numbers(gpus), load(prices)
    loaded = load_job(job, set_ or (), date)
    if not isinstance(loaded, EditJob):
        raise ConfigError(f"{job} is of kind {loaded.kind}; retouch plan takes jobs of kind edit")
    made = make_plan(loaded, limit=limit)
    refuse_another_job(made)
    made, _ = look_back(
        made, answered_again(False, (), tries(loaded)), wait=False
    )  # what a night takes over costs nothing
    outlook = _Outlook(made, table, counts, None if all_ else sample, "ray" if executor == "ray" else "local", address)
    typer.echo(json.dumps(outlook.record()) if as_json else "\n".join(outlook.lines()))


def _numbers(text: str | None) -> tuple[int, ...]:
    from retouch.errors import ConfigError

    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(f"--gpus {text!r} is not a number or several with commas between: --gpus 8, --gpus 1,8,64")
    return tuple(dict.fromkeys(map(int, parts)))


def _actors(gpus: Sequence[int], measured: Measured | None) -> tuple[int, ...]:
    """Actors on so many GPUs, or on so many cores; as many as there is room for where none are said."""
    if measured is None:
        return tuple(gpus) or (1,)
    return tuple(dict.fromkeys(max(1, int(count / measured.each)) for count in gpus)) or (measured.pool,)


class _Outlook:
    """All that there is to say of a plan."""

    def __init__(
        self,
        plan: Plan,
        prices: Prices,
        counts: Sequence[int],
        sample: int | None,
        executor: Literal["ray", "local"],
        address: str | None,
    ) -> None:
        from retouch.execution.check import rows_left
        from retouch.execution.planning.forecast import Work, forecast
        from retouch.execution.planning.probe import probe
        from retouch.execution.planning.strata import chosen, strata

        self.plan, self.prices, self.executor = plan, prices, executor
        self.strata: Strata | None = None
        self.measured: Measured | None = None
        self.checkup: Checkup | None = None
        if plan.left:
            keys = plan.todo["key"].to_pylist()
            self.strata = strata(plan.todo, chosen(keys, plan.left if sample is None else sample))
            # Before the doctor, whose imports would make this process's own start look shorter than a run's.
            self.measured = probe(plan, self.strata, executor=executor, address=address)
            self.checkup = rows_left(plan, sample)
        work = Work(
            kinds=self.strata.of_row if self.strata else (),
            shares=self.strata.shares() if self.strata else {},
            rows_per_block=plan.rows_per_block,
            entries_a_row=plan.job.candidates,
            entries_a_pass=plan.job.ray.batch_size,
            megapixels=self.strata.mean_megapixels if self.strata else 0.0,
            edited=1 - len(self.checkup.failed) / max(self.checkup.read, 1) if self.checkup else 1.0,
            in_turn=executor == "local",
        )
        actors = _actors(counts, self.measured)
        self.forecast: Forecast = forecast(work, self.measured, actors, prices)

    def record(self) -> dict[str, Any]:
        """For programs."""
        from retouch.execution.planning.strata import size_name

        names = (
            {stratum: [self.strata.kinds[stratum[0]].name, size_name(stratum[1])] for stratum in self.strata.shares()}
            if self.strata
            else {}
        )
        measured = asdict(self.measured) if self.measured else None
        if measured is not None:
            for field in ("passes", "decode", "write"):
                measured[field] = [
                    {"rows": names.get(stratum), "seconds": seconds} for stratum, seconds in measured[field].items()
                ]
        found = asdict(self.forecast)
        found["guessed"] = [names.get(stratum) for stratum in self.forecast.guessed]
        failed: dict[str, int] = {}
        for failure in self.checkup.failed.values() if self.checkup else ():
            failed[failure.type] = failed.get(failure.type, 0) + 1
        return {
            "name": self.plan.job.name,
            "rows": self.plan.total,
            "answered": self.plan.total - self.plan.left,
            "left": self.plan.left,
            "looked_at": self.checkup.read if self.checkup else 0,
            "would_fail": failed,
            "executor": self.executor,
            "probe": measured,
            "currency": self.prices.currency,
            **found,
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        plan = self.plan
        yield f"{plan.job.name}: {plan.total} rows, {plan.total - plan.left} answered already, {plan.left} left"
        if self.measured is None or self.checkup is None:
            yield "nothing is left to do, and nothing to pay"
            return
        yield from (f"doctor: {line}" for line in self.checkup.text().splitlines())
        yield from self._probed(self.measured)
        yield from (self._predicted(found, self.measured) for found in self.forecast.predictions)
        yield self._money(self.measured)
        yield (
            f"storage: {_bytes(self.forecast.image_bytes)} of images, {_bytes(self.forecast.table_bytes)} of results"
        )

    def _probed(self, measured: Measured) -> Iterator[str]:
        from retouch.execution.planning.strata import size_name

        assert self.strata is not None
        yield (
            f"probe: {measured.rows} rows in {measured.seconds:.0f} s through {self.executor}, "
            f"{measured.actors} actors on {measured.device}, nothing kept"
        )
        start = measured.start
        yield (
            f"start: {start.cluster:.1f} s cluster, {start.load:.1f} s actors and models, {start.warm_up:.1f} s first "
            f"pass; end: {start.finish:.1f} s"
        )
        for stratum, share in self.strata.shares().items():
            name = f"{self.strata.kinds[stratum[0]].name}, {size_name(stratum[1])}"
            some = measured.passes.get(stratum)
            if some is None:
                yield f"rows: {share:.0%} {name}: not probed, taken for the nearest that was"
                continue
            yield (
                f"rows: {share:.0%} {name}: {sum(some) / len(some):.3g} s a pass ({min(some):.3g} to {max(some):.3g}), "
                f"decode {measured.decode[stratum]:.2g} s, write {measured.write[stratum]:.2g} s a row"
            )

    def _predicted(self, found: Prediction, measured: Measured) -> str:
        unit = "core-hours" if measured.device == "cpu" else "GPU-hours"
        money = "" if found.money is None else f", {_span(found.money, '.3g')} {self.prices.currency}"
        wall = f"{_clock(found.wall.value)} ({_clock(found.wall.low)} to {_clock(found.wall.high)})"
        return (
            f"{found.actors} actors: {wall}, {_span(found.device_hours, '.3g')} {unit}{money}, "
            f"of it idle at the end {found.idle_hours:.2g} h"
        )

    def _money(self, measured: Measured) -> str:
        from retouch.jobs.prices import unknown

        price = self.prices.of(measured.device)
        if price is None:
            return f"money: {unknown(measured.device)}"
        return f"money: {price.per_hour:g} {self.prices.currency} an hour of {measured.device} {price.said}".rstrip()


def _span(span: Span, form: str) -> str:
    return f"{span.value:{form}} ({span.low:{form}} to {span.high:{form}})"


def _clock(seconds: float) -> str:
    """``48 s``, ``12.5 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
