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
    ├── StorageError            bytes that could not be read or written after bounded retries
    │   └── ObjectMissing       there is no such object
    └── RowError                one row's failure; becomes its answer
        ├── LoadError           the row's inputs: status ``failed_to_load``
        └── EditError           the edit itself: status ``failed_to_edit``
            ├── NoFace          ``fit: face``, and no face to be seen
            └── Filtered        a safety checker flagged the edit: status ``filtered``
"""

from __future__ import annotations


class RetouchError(Exception):
    """Base of all; ``str(error)`` is one line: what, which one, what would do."""

    exit_code = 1


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
    """An output folder that holds another job's answers."""


class Interrupted(RetouchError):
    """Stopped on the way; what is answered is kept and the same command goes on."""

    exit_code = 3


class StorageError(RetouchError):
    """Bytes that could not be read or written after bounded retries."""


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


class NoFace(EditError):
    """A job asks for faces, and this row has none, or none where it may be edited."""


class Filtered(EditError):
    """A safety checker flagged the edit; the row has no image."""

    status = "filtered"
