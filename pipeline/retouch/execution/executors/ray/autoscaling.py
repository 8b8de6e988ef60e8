"""What a cluster has, and on one that grows by itself, what it was asked for first. Knows Ray, and no plan.

A cluster with an autoscaler starts with nothing to work on, and Ray Data asks it for no nodes on behalf of actors with
GPUs. So they are asked for here: all that can be used, and no longer than the command runs. ``RETOUCH_WAIT_FOR_NODES``
says how many seconds a first one may take; without it a cluster is what it is when the command starts.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Final

from retouch.errors import ConfigError

VARIABLE: Final = "RETOUCH_WAIT_FOR_NODES"
INTERVAL: Final = 2.0  # seconds between two looks


@contextlib.contextmanager
def resources(each: Mapping[str, float], count: int, at_least: int = 1) -> Iterator[dict[str, float]]:
    """Amounts that the cluster has by resource, within.

    Args:
        each: what one actor, task or worker takes; zeros are left out.
        count: how many the cluster is asked to hold.
        at_least: how many it must hold before this goes on, unless it takes too long.

    Raises:
        ConfigError: the variable is no number of seconds.
    """
    import ray

    seconds = _seconds()
    wanted = {name: amount for name, amount in each.items() if amount}
    if not seconds or not wanted:
        yield ray.cluster_resources()
        return
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[dict(wanted) for _ in range(count)])
    try:
        until = time.monotonic() + seconds
        while not _holds(there := ray.cluster_resources(), wanted, at_least) and time.monotonic() < until:
            time.sleep(INTERVAL)
        yield there
    finally:
        with contextlib.suppress(Exception):  # the head may be gone, and with it whom this would tell
            request_resources(bundles=[])


def _holds(there: Mapping[str, float], wanted: Mapping[str, float], count: int) -> bool:
    return all(there.get(name, 0.0) >= amount * count for name, amount in wanted.items())


def _seconds() -> float:
    text = os.environ.get(VARIABLE) or "0"
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{VARIABLE} is {text!r}, and is a number of seconds") from None
