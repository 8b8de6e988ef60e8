"""What we use of Ray's internals, each with the version in which it was found and the test that notices a change."""

from __future__ import annotations

from ray.job_config import JobConfig


class JobConfigOfInstalledCode(JobConfig):  # type: ignore[misc]
    """A job's settings with which Ray does not change its workers' ``sys.path``.

    Ray 2.60 (``ray._private.worker.connect``) puts the folder of the command first in it, where a file ``yaml.py``
    would replace the library. It does not if the job has a working directory. Test: ``test_shadowing.py``.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True
