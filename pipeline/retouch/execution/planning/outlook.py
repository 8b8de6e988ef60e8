"""What the rest of a job will take: check and probe its remaining rows, and forecast time, cost and storage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from retouch.execution.check import CheckReport, check_remaining
from retouch.execution.plan import Plan
from retouch.execution.planning.forecast import Forecast, Measured, Prediction, Span, Work, forecast
from retouch.execution.planning.probe import probe
from retouch.execution.planning.strata import Strata, sample_rows, size_name, stratify
from retouch.jobs.prices import Prices, unknown


@dataclass(frozen=True)
class CostReport:
    """Findings about a plan's remaining rows. ``strata``, ``measured`` and ``checkup`` are None if no row is left."""

    plan: Plan
    prices: Prices
    executor: Literal["ray", "local"]
    strata: Strata | None
    measured: Measured | None
    checkup: CheckReport | None
    forecast: Forecast

    def record(self) -> dict[str, Any]:
        """Return the report as plain data for JSON."""
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
        """Yield the report as lines for a terminal."""
        plan = self.plan
        yield f"{plan.job.name}: {plan.total} rows, {plan.total - plan.left} done, {plan.left} left"
        if self.measured is None or self.checkup is None:
            yield "nothing left to do"
            return
        yield from (f"check: {line}" for line in self.checkup.text().splitlines())
        yield from self._probe_lines(self.measured)
        yield from (self._prediction_line(found, self.measured) for found in self.forecast.predictions)
        yield self._price_line(self.measured)
        yield f"storage: {_bytes(self.forecast.image_bytes)} images, {_bytes(self.forecast.table_bytes)} results"

    def _probe_lines(self, measured: Measured) -> Iterator[str]:
        assert self.strata is not None
        yield (
            f"probe: {measured.rows} rows in {measured.seconds:.0f} s through {self.executor}, "
            f"{measured.actors} actors on {measured.device}, images discarded"
        )
        start = measured.start
        yield (
            f"start-up: {start.cluster:.1f} s cluster, {start.load:.1f} s actors and models, {start.warm_up:.1f} s "
            f"first pass; end: {start.finish:.1f} s"
        )
        for stratum, share in self.strata.shares().items():
            name = f"{self.strata.kinds[stratum[0]].name}, {size_name(stratum[1])}"
            some = measured.passes.get(stratum)
            if some is None:
                yield f"rows: {share:.0%} {name}: not probed, estimated from the nearest kind that was"
                continue
            yield (
                f"rows: {share:.0%} {name}: {sum(some) / len(some):.3g} s per pass "
                f"({min(some):.3g} to {max(some):.3g}), decode {measured.decode[stratum]:.2g} s, "
                f"write {measured.write[stratum]:.2g} s per row"
            )

    def _prediction_line(self, found: Prediction, measured: Measured) -> str:
        unit = "core-hours" if measured.device == "cpu" else "GPU-hours"
        money = "" if found.money is None else f", {_span(found.money, '.3g')} {self.prices.currency}"
        wall = f"{_clock(found.wall.value)} ({_clock(found.wall.low)} to {_clock(found.wall.high)})"
        return (
            f"{found.actors} actors: {wall}, {_span(found.device_hours, '.3g')} {unit}{money}, "
            f"of which {found.idle_hours:.2g} h idle at the end"
        )

    def _price_line(self, measured: Measured) -> str:
        price = self.prices.of(measured.device)
        if price is None:
            return f"price: {unknown(measured.device)}"
        return f"price: {price.per_hour:g} {self.prices.currency} per hour of {measured.device} {price.origin}".rstrip()


def cost_report(
    plan: Plan,
    prices: Prices,
    *,
    counts: Sequence[int],
    sample: int | None,
    executor: Literal["ray", "local"],
    address: str | None,
) -> CostReport:
    """Check and probe a plan's remaining rows, and forecast the run.

    Args:
        plan: the job's plan.
        prices: price table.
        counts: numbers of GPUs (or cores) to predict for; empty: as many as the cluster has room for.
        sample: how many remaining rows to check; None for all.
        executor: where the probe runs.
        address: of a running Ray cluster.
    """
    groups: Strata | None = None
    measured: Measured | None = None
    checkup: CheckReport | None = None
    if plan.left:
        keys = plan.todo["key"].to_pylist()
        groups = stratify(plan.todo, sample_rows(keys, plan.left if sample is None else sample), plan.job.canvas)
        # Probe before the check: the check's imports would make this process's start-up look shorter than a run's.
        measured = probe(plan, groups, executor=executor, address=address)
        checkup = check_remaining(plan, sample)
    work = Work(
        kinds=groups.of_row if groups else (),
        shares=groups.shares() if groups else {},
        rows_per_block=plan.rows_per_block,
        entries_per_row=plan.job.candidates,
        entries_per_pass=plan.job.ray.batch_size,
        megapixels=groups.mean_megapixels if groups else 0.0,
        edited=1 - len(checkup.failed) / max(checkup.read, 1) if checkup else 1.0,
        sequential=executor == "local",
    )
    predicted = forecast(work, measured, _actors(counts, measured), prices)
    return CostReport(plan, prices, executor, groups, measured, checkup, predicted)


def _actors(counts: Sequence[int], measured: Measured | None) -> tuple[int, ...]:
    """Return how many actors fit on each number of GPUs (or cores); without numbers, the size of the probed pool."""
    if measured is None:
        return tuple(counts) or (1,)
    return tuple(dict.fromkeys(max(1, int(count / measured.each)) for count in counts)) or (measured.pool,)


def _span(span: Span, form: str) -> str:
    return f"{span.value:{form}} ({span.low:{form}} to {span.high:{form}})"


def _clock(seconds: float) -> str:
    """Format seconds as ``48 s``, ``12.5 min`` or ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
