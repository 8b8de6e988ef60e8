"""Package a job for a Ray cluster: the folder that is uploaded, and the command that runs the job there.

Relative addresses mean nothing on another machine. If a folder is sent along, relative addresses that are read start
there; what is written must be absolute, because the copy of the folder is deleted after the job. Without a folder only
the job file is sent, and every address must be absolute.
"""

from __future__ import annotations

import glob
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from retouch import storage
from retouch.errors import ConfigError
from retouch.jobs.addresses import addresses
from retouch.jobs.config import EditJob, EvaluateJob, Job, load_job

# Of a folder that is sent, in addition to what its .gitignore and .rayignore name.
EXCLUDED: Final = (".git", ".venv", "runs", "__pycache__")
JOB_FILE: Final = "job.yaml"
# The job's folder is a folder of the package, because Ray puts the package itself first in every process's sys.path:
# a file `yaml.py` there would replace the library. No module can have a dash in its name.
INNER_FOLDER: Final = "working-dir"


@dataclass(frozen=True)
class JobPackage:
    """A job ready to be submitted."""

    name: str  # of the job
    folder: str  # what is uploaded; its INNER_FOLDER becomes the command's current folder
    command: str  # for the shell of the cluster's head


def pack(
    job_file: str,
    sets: Sequence[str] = (),
    *,
    scratch: str,
    working_dir: str | None = None,
    python: str = "python",
    options: Sequence[str] = (),
) -> JobPackage:
    """Package a job; raise if it names something that the cluster would not find.

    ``{date}`` in the output becomes today (UTC), so that a job that starts after midnight keeps its date.

    Args:
        job_file: of YAML; inside ``working_dir`` if that is given.
        sets: ``a.b=value`` over the job's fields.
        scratch: an empty folder of this machine, which becomes the package.
        working_dir: a folder to send along.
        python: the cluster's interpreter, or a command that runs one.
        options: more options of the command.

    Raises:
        ConfigError: the job is wrong, or names something that is not sent.
    """
    job, inner = load_job(job_file, sets), Path(scratch, INNER_FOLDER)
    if working_dir is None:
        _check_addresses(job, None)
        data = job.model_dump(mode="json", exclude_defaults=True)
        data["kind"] = job.kind
        inner.mkdir()
        (inner / JOB_FILE).write_text(yaml.safe_dump(data, sort_keys=False))
        return JobPackage(job.name, scratch, _command(job, python, JOB_FILE, (), options))
    folder = Path(working_dir).absolute()
    if not folder.is_dir():
        raise ConfigError(f"--working-dir {working_dir} is no folder")
    file = _relative_to(folder, job_file)
    _check_addresses(job, folder)
    resolved = [*sets, f"output={json.dumps(job.output)}"]
    if isinstance(job, EditJob):  # found from the place of {date} in the output, which is filled in above
        resolved.append(f"carry={json.dumps(job.carry)}")
    inner.symlink_to(folder, target_is_directory=True)  # Ray follows the link when it makes the package
    return JobPackage(job.name, scratch, _command(job, python, file, resolved, options))


def _command(job: Job, python: str, file: str, sets: Sequence[str], options: Sequence[str]) -> str:
    verb = "evaluate" if isinstance(job, EvaluateJob) else "run"
    changes = [part for change in sets for part in ("--set", change)]
    words = [*shlex.split(python), "-P", "-m", "retouch", verb, file, *changes, "--address", "auto", *options]
    # `exec` leaves no shell in between, so that the command's signals and exit code are the job's.
    return f"cd {INNER_FOLDER} && exec {shlex.join(words)}"


def _relative_to(folder: Path, job_file: str) -> str:
    path = storage.local_path(job_file)
    if path is None or not path.is_relative_to(folder):
        raise ConfigError(f"{job_file} is not in {folder}, which is what --working-dir sends; give a job file in it")
    return str(path.relative_to(folder))


def _check_addresses(job: Job, folder: Path | None) -> None:
    """Raise ConfigError for the first address that means nothing on the cluster."""
    for address in addresses(job.model_dump(mode="json")):
        if not _is_relative(address.text):
            continue
        what = f"{address.field} is {address.text}"
        fix = f"--set {address.field}=… with an address that is the same on every node, such as s3://bucket/…"
        if address.is_written:
            raise ConfigError(f"{what}, which on the cluster would be deleted with the job; give {fix}")
        if folder is None:
            raise ConfigError(f"{what}, which is not sent; send the folder that has it (--working-dir), or give {fix}")
        if not _is_sent(address.text, folder):
            raise ConfigError(f"{what}, which is not in what is sent of {folder}; give {fix}")


def _is_relative(address: str) -> bool:
    path = address.partition("#")[0]
    if "://" in path or os.path.isabs(path):
        return False
    return ":" not in path or os.path.exists(path)  # embedded:shapes is a name


def _is_sent(address: str, folder: Path) -> bool:
    path = os.path.normpath(address.partition("#")[0])
    if not set(Path(path).parts).isdisjoint({*EXCLUDED, ".."}):
        return False
    return bool(glob.glob(str(folder / path), recursive=True))
