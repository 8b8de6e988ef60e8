"""Render the Kubernetes objects that run a job once, on a schedule, or keep a cluster for it.

The pod of a CronJob creates the RayJob of each run under a name that carries the date, and stays until it is over
(``nightly``), so that ``concurrencyPolicy: Forbid`` covers the run and not only its submission.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, Literal

import yaml

from retouch import storage
from retouch.deployment.kubernetes.cron import check_cron, check_zone, is_daily_at_most, shortest_gap
from retouch.deployment.kubernetes.manifests import (
    JOB_FOLDER,
    RUN_FILE,
    Cluster,
    Metadata,
    cron_job,
    kube_object,
    ray_cluster_spec,
    ray_job_spec,
)
from retouch.deployment.kubernetes.sizing import ClusterShare, size_cluster
from retouch.errors import ConfigError, ObjectMissing, StorageError
from retouch.jobs.addresses import addresses
from retouch.jobs.config import Job, parse_job
from retouch.jobs.overrides import apply_overrides
from retouch.redaction import redacted

Kind = Literal["cronjob", "rayjob", "raycluster"]
KINDS: Final[tuple[Kind, ...]] = ("cronjob", "rayjob", "raycluster")

# KubeRay's limit of 47 for a RayJob, less what the date and time of a run add.
LONGEST_NAME: Final = 47 - len("-20261126-0200")
DAY: Final = dt.timedelta(days=1)
JOB_FILE: Final = "job.yaml"
DATE: Final = "{date}"
# Characters that a command's words may have: two shells read the command.
_PLAIN: Final = re.compile(r"(?:[A-Za-z0-9_.,:/@%+=-]|\{date\})+")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SECRET: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_NAMED_WEIGHTS: Final = ("embedded:", "open_clip:")  # in the image, or fetched by a library


@dataclass(frozen=True)
class RenderOptions:
    """What to render of a job."""

    job: str  # address of its file
    kind: Kind
    image: str
    cron: str | None = None
    timezone: str = "Etc/UTC"
    overrides: tuple[str, ...] = ()  # a.b=value
    gpus: int | None = None  # in all
    workers: tuple[int, int] | None = None  # pods, at least and at most
    secrets: tuple[str, ...] = ()
    service_account: str = "retouch"
    namespace: str | None = None
    queue: str | None = None  # of Kueue
    spot: bool = True


def render(options: RenderOptions, made_by: str) -> str:
    """Return the objects as one YAML text.

    Args:
        options: what to render.
        made_by: the command, for the first line.

    Raises:
        ConfigError: an option or the job cannot work on Kubernetes, or would put a credential into the objects.
    """
    _check(options)
    text, job = _read(options)
    objects = list(_objects(options, text, job))
    notes = "".join(f"# {line}\n" for line in (f"Made by: {made_by}", *_notes(options, job)))
    rendered = notes + "---\n".join(_yaml(one) for one in objects)
    if redacted(rendered) != rendered:
        raise ConfigError(
            f"{options.job} or an option holds a credential, which anybody who may read Kubernetes' objects would see; "
            "keep it in a Secret and name that: --secret NAME"
        )
    return rendered


def kubernetes_name(name: str) -> str:
    """Return a job's name as Kubernetes accepts it: lower case, letters, digits and dashes, a letter first."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "job"
    plain = plain if plain[0].isalpha() else f"job-{plain}"
    if len(plain) <= LONGEST_NAME:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]  # keeps two long names apart
    return f"{plain[: LONGEST_NAME - 7].rstrip('-')}-{digest}"


def _check(options: RenderOptions) -> None:
    if options.kind == "cronjob":
        if options.cron is None:
            raise ConfigError("--kind cronjob needs a time: --cron '0 2 * * *' is every night at two")
        check_cron(options.cron)
        check_zone(options.timezone)
    elif options.cron is not None:
        raise ConfigError(f"--kind {options.kind} has no schedule: leave --cron out, or use --kind cronjob")
    if options.gpus is not None and options.workers is not None:
        raise ConfigError("--gpus and --workers both limit the number of workers: give one of them")
    if options.workers is not None and not 0 <= options.workers[0] <= options.workers[1] >= 1:
        raise ConfigError(f"--workers {options.workers[0]}:{options.workers[1]} is no range; 0:4 is up to four pods")
    if not re.fullmatch(r"[\w.:/@-]+", options.image, re.ASCII):
        raise ConfigError(f"--image {options.image!r} is not the name of an image; REGISTRY/retouch:TAG is one")
    for option, value in (("namespace", options.namespace), ("queue", options.queue)):
        if value is not None and not _NAME.fullmatch(value):
            raise ConfigError(f"--{option} {value!r} is not a name on Kubernetes: lower-case letters, digits, dashes")
    for option, value in (("service-account", options.service_account), *(("secret", s) for s in options.secrets)):
        if not _SECRET.fullmatch(value):
            raise ConfigError(
                f"--{option} takes the name of an object on Kubernetes: lower-case letters, digits and dashes"
            )


def _read(options: RenderOptions) -> tuple[str, Job]:
    """Return the text of the job file and the job, whose addresses still hold ``{date}``."""
    try:
        text = storage.read_bytes(options.job).decode()
        data = yaml.safe_load(text)
    except ObjectMissing:
        raise ConfigError(f"no job file at {options.job}; give the address of a YAML file") from None
    except StorageError as error:
        raise ConfigError(f"the job file cannot be read: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{options.job} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{options.job} holds {type(data).__name__}, not a mapping of job fields")
    job = parse_job(apply_overrides(data, options.overrides), options.job)
    for address in addresses(job.model_dump(mode="json")):
        is_local = storage.local_path(address.text) is not None or address.text.startswith("memory://")
        if is_local and not address.text.startswith(_NAMED_WEIGHTS):
            raise ConfigError(
                f"{address.field} is {address.text!r}, a file of this machine, which no pod has; put it on s3://"
            )
    for override in options.overrides:
        if not _PLAIN.fullmatch(override):
            raise ConfigError(f"--set {override!r} has characters that a shell reads; write it into the job file")
    return text, job


def _objects(options: RenderOptions, text: str, job: Job) -> Iterator[dict[str, Any]]:
    metadata = Metadata(kubernetes_name(job.name), options.namespace, options.queue)
    share = size_cluster(job, options.gpus, options.workers)
    is_remote = storage.local_path(options.job) is None
    has_file = options.kind != "raycluster" and not is_remote
    cluster = Cluster(
        image=options.image,
        ray_version=version("ray"),
        service_account=options.service_account,
        workers=share.workers,
        has_decode_tasks=share.has_decode_tasks,
        secrets=options.secrets,
        job=metadata.name if has_file else None,
        spot=options.spot,
        autoscales=options.queue is None,  # Kueue counts a job's pods before it starts, and cannot count later ones
    )
    if options.kind == "raycluster":
        yield kube_object("ray.io/v1", "RayCluster", metadata, spec=ray_cluster_spec(cluster))
        return
    entrypoint = _entrypoint(options, job, share, options.job if is_remote else f"{JOB_FOLDER}/{JOB_FILE}")
    spec = ray_job_spec(cluster, entrypoint, _deadline(options), is_queued=options.queue is not None)
    ray_job = kube_object("ray.io/v1", "RayJob", metadata, spec=spec)
    files = {JOB_FILE: text} if has_file else {}
    if options.kind == "cronjob":
        files[RUN_FILE] = _yaml(ray_job)
    if files:
        yield kube_object("v1", "ConfigMap", metadata, data=files)
    if options.kind == "rayjob":
        yield ray_job
    elif options.cron is not None:
        dated = "date" if is_daily_at_most(options.cron) else "minute"
        yield cron_job(metadata, options.image, options.cron, options.timezone, dated, _deadline(options))


def _deadline(options: RenderOptions) -> int:
    """Return the seconds that one attempt may take: nearly the time to the next run, a day at most."""
    gap = DAY if options.cron is None else min(DAY, shortest_gap(options.cron))
    return int(gap.total_seconds() * 23 / 24)


def _entrypoint(options: RenderOptions, job: Job, share: ClusterShare, address: str) -> str:
    settings = [*options.overrides, *share.settings]
    words = ["retouch", share.command, address, "--address", "auto", *(f"--set {setting}" for setting in settings)]
    if options.kind == "cronjob" and DATE in job.output:
        words.append(f"--date {DATE}")  # replaced by the run's date, so that a retry after midnight resumes it
    for word in (address, *settings):
        if not _PLAIN.fullmatch(word):
            raise ConfigError(f"{word!r} has characters that a shell reads, and two shells do; use another name")
    return " ".join(words)


def _notes(options: RenderOptions, job: Job) -> Iterator[str]:
    if options.kind == "rayjob" and DATE in job.output:
        yield "{date} is the day (UTC) of an attempt: a retry after midnight starts over. With a cronjob it does not."
    if options.kind == "raycluster":
        yield "This cluster stays: its head and one CPU pod cost money even when it has nothing to do."


def _yaml(value: Mapping[str, Any]) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=1000)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and no anchors, so that people can read the result."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
