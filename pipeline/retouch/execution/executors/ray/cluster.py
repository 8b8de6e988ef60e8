"""A Ray cluster for a run: one that is running, or one that is started here and stopped at the end."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from retouch import plugin_path
from retouch.errors import Interrupted, RetouchError, StopRun, Unavailable

LOOPBACK: Final = "127.0.0.1"
LOCAL_OBJECT_STORE = 1 << 30  # bytes, of a cluster started here: blocks are a few hundred MB at most


@contextmanager
def cluster(
    address: str | None, workers: int | None, spare_cpus: float = 0.0, gpus: int | None = None
) -> Iterator[bool]:
    """Connect to a cluster, or start one here and stop it at the end. Yield whether nodes may join it meanwhile.

    Args:
        address: of a running cluster (``auto``, ``ray://host:10001``); None takes ``RAY_ADDRESS``, or starts Ray here.
        workers: of one CPU each, that a cluster started here must hold; None for one per core.
        spare_cpus: beyond those workers, for smaller tasks.
        gpus: that a cluster started here claims to have; None for those of the machine.

    Raises:
        StopRun: there is no cluster at the address.
        Interrupted: Ray did not start here.
    """
    # Started by `uv run`, Ray would rebuild the environment in every worker.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    address = address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    if not address:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a local init would turn token authentication on
        # Ray's core warns for every actor pool that its arguments are lost with the driver, as they should be here.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if address:
        try:
            ray.init(address=address, ignore_reinit_error=True, **_imports_of_workers(address), **quiet)
        except (ConnectionError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise StopRun(f"no Ray cluster at {address!r}: {reason}") from error
        yield True
        return
    cores = os.cpu_count() or 1
    # More than the workers need, so that small tasks are always scheduled.
    cpus = max(cores, workers or cores) + math.ceil(spare_cpus)
    # A short path, since the path of a socket has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="rt-", ignore_cleanup_errors=True) as folder:
        try:
            with _plugin_path_set():
                _start_here(cpus, gpus, folder, quiet)
            yield False
        finally:
            ray.shutdown()


@contextmanager
def _plugin_path_set() -> Iterator[None]:
    """Set the environment variable that processes started here read the plug-ins' folders from."""
    before = os.environ.get(plugin_path.VARIABLE)
    os.environ[plugin_path.VARIABLE] = before or plugin_path.of_this_process()
    try:
        yield
    finally:
        if before is None:
            del os.environ[plugin_path.VARIABLE]


def _imports_of_workers(address: str) -> dict[str, Any]:
    """Return the arguments of ``ray.init`` that decide what workers of a running cluster import."""
    from retouch.execution.executors.ray.compat import JobConfigOfInstalledCode

    options: dict[str, Any] = {}
    if not address.startswith("ray://"):  # whose server leaves its workers' sys.path alone
        options["job_config"] = JobConfigOfInstalledCode()
    if plugin_path.VARIABLE not in os.environ:  # `retouch submit` has set it for all processes of its job
        options["runtime_env"] = {"env_vars": {plugin_path.VARIABLE: plugin_path.of_this_process()}}
    return options


def total_resources() -> dict[str, float]:
    """Return the resources of all nodes that are alive. ``ray.cluster_resources`` may lag behind a new node."""
    import ray

    summed: Counter[str] = Counter()
    for node in ray.nodes():
        if node["Alive"]:
            summed.update(node["Resources"])
    return dict(summed)


def _start_here(cpus: int, gpus: int | None, folder: str, quiet: dict[str, Any]) -> None:
    """Start Ray on this machine. Ray gives its own daemons 30 s, which a busy machine may exceed: tried three times."""
    import ray

    from retouch.execution.executors.ray.compat import JobConfigOfInstalledCode

    for tries_left in (2, 1, 0):
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                dashboard_host=LOOPBACK,
                object_store_memory=LOCAL_OBJECT_STORE,
                _temp_dir=folder,
                job_config=JobConfigOfInstalledCode(),
                **quiet,
            )
            return
        except Exception as error:  # Ray raises nothing more specific
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise
            if not tries_left:
                raise Interrupted(f"Ray did not start on this machine: {error}") from error


def run_error(error: Exception) -> RetouchError:
    """Return the error that ends a run, for one that Ray raised: the worker's own if it is one of ours."""
    failures = getattr(error, "worker_failures", {})  # of Ray Train
    for found in (error, *failures.values()):
        cause = getattr(found, "cause", None)  # what a worker raised, of Ray's RayTaskError
        if isinstance(cause, StopRun | Interrupted | Unavailable):
            return type(cause)(str(cause).partition("\n")[0])  # Ray Data appends lines about its own retries
    last_line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return Interrupted(f"Ray stopped the run: {last_line[:300]}; run the same command again to resume")
