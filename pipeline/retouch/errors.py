"""Every exception Retouch raises on purpose. Knows nothing but their names and exit codes.

::

    RetouchError
    ├── StopRun                 nothing was started; the command exits with 2
    │   ├── ConfigError         a job file, an option or a parameter
    │   ├── ManifestError       a manifest that cannot be read as one
    │   ├── PluginError         a name that no installed plug-in has, or a plug-in that does not keep the contract
    │   ├── WeightsError        a checkpoint that is missing, truncated, unsafe or of another architecture
    │   └── OutputError         an output folder that belongs to another job
    ├── Interrupted             stopped on the way; the command exits with 3 and can be run again
    │   ├── Busy                another run is writing to this output
    │   ├── OverCost            the job's max_cost is spent
    │   └── LeaseLost           a newer run took the output over
    ├── OverBudget              more rows failed than max_failure_rate allows; the command exits with 1
    ├── StorageError            bytes that could not be read or written after bounded retries; exits with 3
    │   ├── ObjectMissing       there is no such object
    │   └── Unavailable         credentials are refused or expired, or a disk is full: no row's fault, stops the run
    └── RowError                one row's failure; becomes its answer
        ├── LoadError           the row's inputs: status ``failed_to_load``
        └── EditError           the edit itself: status ``failed_to_edit``
            ├── WorkerLost      whichever worker had this row in hand died
            ├── DeadlineExceeded  the row took longer than the job allows
            ├── NoFace          ``fit: face``, and no face to be seen
            └── Filtered        a safety checker flagged the edit: status ``filtered``
"""

from __future__ import annotations

from retouch.redaction import redacted


class RetouchError(Exception):
    """Base of all; ``str(error)`` is one line: what, which one, what would do. Credentials are left out of it."""

    exit_code = 1

    def __init__(self, *said: object) -> None:
        # Here, for an error's text goes everywhere: tables, records, logs, tracebacks of other processes.
        super().__init__(*(redacted(part) if isinstance(part, str) else part for part in said))


class StopRun(RetouchError):
    """The job, manifest or command is wrong, and nothing was started."""

    exit_code = 2


class ConfigError(StopRun):
    """A job file, an option or a parameter that cannot mean anything."""


class ManifestError(StopRun):
    """A manifest that cannot be read as one."""


class PluginError(StopRun):
    """No installed plug-in has this name, or the one that has does not keep the contract."""


class WeightsError(StopRun):
    """A checkpoint that is missing, truncated, unsafe or of another architecture."""


class OutputError(StopRun):
    """An output folder that holds results of another job."""


class Interrupted(RetouchError):
    """Stopped on the way; what is answered is kept and the same command goes on."""

    exit_code = 3


class Busy(Interrupted):
    """Another run is writing to this output."""


class OverCost(Interrupted):
    """The job's ``max_cost`` is spent; what is answered is kept."""


class LeaseLost(Interrupted):
    """A newer run took the output over from this one."""


class OverBudget(RetouchError):
    """More rows failed than ``max_failure_rate`` allows; what is answered is kept."""

    exit_code = 1


class StorageError(RetouchError):
    """Bytes that could not be read or written after bounded retries."""

    exit_code = 3


class Unavailable(StorageError):
    """Credentials are refused or expired, or a disk is full; no row is failed for it."""


class ObjectMissing(StorageError):
    """There is no object at this address."""


class RowError(RetouchError):
    """One row's failure, which becomes that row's answer."""

    status = "failed_to_edit"


class LoadError(RowError):
    """A row's image, mask or exemplar cannot be had."""

    status = "failed_to_load"


class EditError(RowError):
    """An editor could not answer a row."""


class WorkerLost(EditError):
    """Whichever worker had this row in hand died, alone and more than once."""


class DeadlineExceeded(EditError):
    """A row took longer than the job's deadlines allow."""


class NoFace(EditError):
    """A job asks for faces, and this row has none, or none where it may be edited."""


class Filtered(EditError):
    """A safety checker flagged the edit; the row has no image."""

    status = "filtered"
