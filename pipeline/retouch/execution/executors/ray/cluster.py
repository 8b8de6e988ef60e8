"""A Ray cluster to work on: one that runs already, or one started here and stopped again. Knows no plan and no row."""

from __future__ import annotations

import importlib
import logging
import math
import os
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from retouch import errors, plugin_path
from retouch.errors import Interrupted, RetouchError, StopRun, Unavailable

LOOPBACK: Final = "127.0.0.1"
RAYLET_LOG: Final = "raylet.err"  # is there when ray.init has no more to do than to wait
LOOK: Final = 0.05  # seconds between two looks at whether Ray's daemons are there
LOCAL_OBJECT_STORE = 1 << 30  # bytes, of a cluster started here: blocks are a few hundred MB at most


@contextmanager
def cluster(
    address: str | None,
    workers: int | None,
    spare_cpus: float = 0.0,
    gpus: int | None = None,
    meanwhile: str | None = None,
) -> Iterator[bool]:
    """Connect to a cluster, or start one here and stop it again; whether nodes may join it while it is used.

    Args:
        address: of a running cluster (``auto``, ``ray://host:10001``); None takes ``RAY_ADDRESS``, or starts Ray here.
        workers: of one CPU each, that a cluster started here must hold; None = one a core.
        spare_cpus: beyond those workers, for smaller tasks.
        gpus: that a cluster started here is told to have; None = those that are there.
        meanwhile: a module that will be wanted, to be imported while Ray's daemons start; one that imports none of
            Ray's, since two threads that import modules of each other's may find them half there.

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
        # The core says of every actor pool that its arguments could be lost with the driver; that is our plan.
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
    # Beyond the workers', so that small tasks always find a place.
    cpus = max(cores, workers or cores) + math.ceil(spare_cpus)
    # Short, for a socket's path has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="rt-", ignore_cleanup_errors=True) as folder:
        try:
            with _importing(meanwhile, Path(folder)), _plugin_path_set():
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


@contextmanager
def _importing(module: str | None, folder: Path) -> Iterator[None]:
    """Import a module in a thread as soon as this process has no more to do than to wait for Ray's daemons."""
    over = threading.Event()

    def wait_and_import(module: str) -> None:
        while not over.is_set():
            if any(folder.glob(f"session_*/logs/{RAYLET_LOG}")):
                importlib.import_module(module)
                return
            time.sleep(LOOK)

    if module is not None:
        threading.Thread(target=wait_and_import, args=(module,), daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextmanager
def _taken_port() -> Iterator[int]:
    """A port that nothing else can have: given it for its API server, Ray starts none, and goes on.

    Without a dashboard the server only reports usage statistics, and ``ray.init`` waits for it.
    """
    with socket.socket() as held:
        held.bind((LOOPBACK, 0))
        held.listen()
        logger = logging.getLogger("ray._private.services")
        logger.addFilter(_not_of_a_port)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves the socket open that found the port taken
                yield held.getsockname()[1]
        finally:
            logger.removeFilter(_not_of_a_port)


def _not_of_a_port(record: logging.LogRecord) -> bool:
    return "already occupied" not in str(record.msg)


def _start_here(cpus: int, gpus: int | None, folder: str, quiet: dict[str, Any]) -> None:
    """Start Ray on this machine. It gives its own daemons 30 s, which a busy machine may not keep: tried again."""
    import ray

    from retouch.execution.executors.ray.compat import JobConfigOfInstalledCode

    for tries_left in (2, 1, 0):
        try:
            with _taken_port() as taken:
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    num_gpus=gpus,
                    include_dashboard=False,
                    dashboard_host=LOOPBACK,
                    dashboard_port=taken,
                    object_store_memory=LOCAL_OBJECT_STORE,
                    _temp_dir=folder,
                    job_config=JobConfigOfInstalledCode(),
                    **quiet,
                )
            return
        except Exception as error:  # Ray raises nothing more special
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise
            if not tries_left:
                raise Interrupted(f"Ray did not start on this machine: {error}") from error


def of_ours(error: Exception) -> RetouchError:
    """What a worker raised, which arrives as a text with its traceback; StopRun where the job itself is wrong."""
    last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    name, _, message = last.removeprefix("retouch.errors.").partition(": ")
    kind = getattr(errors, name, None) if last.startswith("retouch.errors.") else None
    if isinstance(kind, type) and issubclass(kind, StopRun | Interrupted | Unavailable):
        return kind(message)
    return Interrupted(f"Ray stopped the run: {last[:300]}; the same command goes on from here")
