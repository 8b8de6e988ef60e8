"""Every exception that Retouch raises on purpose, with the command's exit codes.

::

    RetouchError
    ├── StopRun                 nothing was started; the command exits with 2
    │   ├── ConfigError         a job file, an option or a parameter
    │   ├── ManifestError       a manifest that cannot be read
    │   ├── PluginError         no plug-in of this name is installed, or one breaks the contract
    │   ├── WeightsError        a checkpoint that is missing, truncated, unsafe or of another architecture
    │   └── OutputError         an output folder that belongs to another job
    ├── Interrupted             stopped before the end; the command exits with 3, run it again to resume
    │   ├── Busy                another run is writing to this output
    │   ├── OverCost            the job's max_cost is reached
    │   └── LeaseLost           a newer run took over the output
    ├── OverBudget              more rows failed than max_failure_rate allows; the command exits with 1
    ├── StorageError            a read or write failed after all retries; exits with 3
    │   ├── ObjectMissing       no object at this address
    │   └── Unavailable         credentials refused or expired, or a disk full: stops the run, fails no row
    └── RowError                one row's failure; becomes its result
        ├── LoadError           the row's inputs: status ``failed_to_load``
        └── EditError           the edit itself: status ``failed_to_edit``
            ├── WorkerLost      every worker that processed this row died
            ├── DeadlineExceeded  the row took longer than the job allows
            ├── NoFace          ``fit: face``, and no face was found
            └── Filtered        the safety checker flagged the edit: status ``filtered``
"""

from __future__ import annotations

from retouch.redaction import redacted


class RetouchError(Exception):
    """Base class. ``str(error)`` is one line, ``<what> <which>: <why>; <fix>``, with credentials masked."""

    exit_code = 1

    def __init__(self, *args: object) -> None:
        # Masked here, because an error's text ends up in tables, records, logs and tracebacks of other processes.
        super().__init__(*(redacted(arg) if isinstance(arg, str) else arg for arg in args))


class StopRun(RetouchError):
    """The job, manifest or command is wrong; nothing was started."""

    exit_code = 2


class ConfigError(StopRun):
    """A job file, an option or a parameter is invalid."""


class ManifestError(StopRun):
    """A manifest cannot be read."""


class PluginError(StopRun):
    """No plug-in of this name is installed, or a plug-in breaks the contract."""


class WeightsError(StopRun):
    """A checkpoint is missing, truncated, unsafe or of another architecture."""


class OutputError(StopRun):
    """An output folder holds another job's results."""


class Interrupted(RetouchError):
    """Stopped before the end. Results are kept; the same command resumes."""

    exit_code = 3


class Busy(Interrupted):
    """Another run is writing to this output."""


class OverCost(Interrupted):
    """The job's ``max_cost`` is reached. Results are kept."""


class LeaseLost(Interrupted):
    """A newer run took over the output from this one."""


class OverBudget(RetouchError):
    """More rows failed than ``max_failure_rate`` allows. Results are kept."""

    exit_code = 1


class StorageError(RetouchError):
    """A read or write failed after all retries."""

    exit_code = 3


class Unavailable(StorageError):
    """Credentials are refused or expired, or a disk is full. The run stops and no row is marked as failed."""


class ObjectMissing(StorageError):
    """No object exists at this address."""


class RowError(RetouchError):
    """One row's failure, which becomes that row's result."""

    status = "failed_to_edit"


class LoadError(RowError):
    """A row's image, mask or exemplar cannot be loaded."""

    status = "failed_to_load"


class EditError(RowError):
    """An editor could not edit a row."""


class WorkerLost(EditError):
    """Several workers died while processing this row alone."""


class DeadlineExceeded(EditError):
    """A row exceeded one of the job's deadlines."""


class NoFace(EditError):
    """A job edits faces, and this row has none, or none within the mask."""


class Filtered(EditError):
    """The safety checker flagged the edit; the row has no image."""

    status = "filtered"
