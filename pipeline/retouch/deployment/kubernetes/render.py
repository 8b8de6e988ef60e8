"""A job to the Kubernetes objects that run it: once, every night, or a cluster for it. Knows Kubernetes and no cluster.

A CronJob's pod makes each night's RayJob under a name that carries the date and stays until that is over
(`kube_night`), so ``concurrencyPolicy: Forbid`` means the run and not just its submission. A RayCronJob does
without that pod, and without the policy: there only the output's lease keeps two runs apart.
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
from retouch.deployment.kubernetes.kube_jobs import NIGHT_FILE, Origin, cron_job, kube_object, ray_job_spec
from retouch.deployment.kubernetes.pods import JOB_FOLDER, Cluster, ray_cluster_spec
from retouch.deployment.kubernetes.sizing import Share, share
from retouch.errors import ConfigError, ObjectMissing, StorageError
from retouch.jobs.config import Job, parse_job
from retouch.jobs.overrides import overridden
from retouch.redaction import redacted

Kind = Literal["cronjob", "raycronjob", "rayjob", "raycluster"]
KINDS: Final[tuple[Kind, ...]] = ("cronjob", "raycronjob", "rayjob", "raycluster")
TIMED: Final = ("cronjob", "raycronjob")

# KubeRay's limit of 47 for a RayJob, less what a night's date and time add.
LONGEST_NAME: Final = 47 - len("-20261126-0200")
DAY: Final = dt.timedelta(days=1)
JOB_FILE: Final = "job.yaml"
DATE: Final = "{date}"
# What a command's words may be made of: on its way it passes two shells.
_PLAIN: Final = re.compile(r"(?:[A-Za-z0-9_.,:/@%+=-]|\{date\})+")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SECRET: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_OWN_NAMES: Final = frozenset({"params", "options"})  # fields whose names are an editor's or a metric's
_ADDRESSES: Final = frozenset({"manifest", "output", "latents", "weights", "results", "reference"})
_NOT_FILES: Final = ("embedded:", "open_clip:")  # of weights: what comes with the image, what a library knows by name


@dataclass(frozen=True)
class Wishes:
    """What is to be rendered of a job."""

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


def render(wishes: Wishes, made_by: str) -> str:
    """The objects as one YAML text.

    Args:
        wishes: what is to be rendered.
        made_by: the command, for the first line.

    Raises:
        ConfigError: an option or the job cannot be had on Kubernetes, or would put a credential into the objects.
    """
    _check(wishes)
    text, job, output = _read(wishes)
    objects = list(_objects(wishes, text, job, output))
    notes = "".join(f"# {line}\n" for line in (f"Made by: {made_by}", *_notes(wishes, output)))
    rendered = notes + "---\n".join(_yaml(one) for one in objects)
    if redacted(rendered) != rendered:
        raise ConfigError(
            f"{wishes.job} or an option holds a credential, and Kubernetes' objects are no place for one; "
            "keep it in a Secret and name that: --secret NAME"
        )
    return rendered


def kubernetes_name(name: str) -> str:
    """A job's name as Kubernetes has names: lower case, letters, digits and dashes, a letter first."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "job"
    plain = plain if plain[0].isalpha() else f"job-{plain}"
    if len(plain) <= LONGEST_NAME:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]  # so that two long names stay two
    return f"{plain[: LONGEST_NAME - 7].rstrip('-')}-{digest}"


def _check(wishes: Wishes) -> None:
    if wishes.kind in TIMED:
        if wishes.cron is None:
            raise ConfigError(f"--kind {wishes.kind} needs a time: --cron '0 2 * * *' is every night at two")
        check_cron(wishes.cron)
        check_zone(wishes.timezone)
    elif wishes.cron is not None:
        raise ConfigError(f"--kind {wishes.kind} runs at no set time: leave --cron out, or take --kind cronjob")
    if wishes.kind == "raycronjob" and wishes.queue is not None:
        raise ConfigError("KubeRay puts no label on a RayCronJob's jobs, so Kueue never sees them: take --kind cronjob")
    if wishes.gpus is not None and wishes.workers is not None:
        raise ConfigError("--gpus says how many workers there are at most, and so does --workers: give one of them")
    if wishes.workers is not None and not 0 <= wishes.workers[0] <= wishes.workers[1] >= 1:
        raise ConfigError(f"--workers {wishes.workers[0]}:{wishes.workers[1]} is no range; 0:4 is up to four pods")
    if not re.fullmatch(r"[\w.:/@-]+", wishes.image, re.ASCII):
        raise ConfigError(f"--image {wishes.image!r} is no image's name; REGISTRY/retouch:TAG is one")
    for option, value in (("namespace", wishes.namespace), ("queue", wishes.queue)):
        if value is not None and not _NAME.fullmatch(value):
            raise ConfigError(f"--{option} {value!r} is no name on Kubernetes: small letters, digits and dashes")
    for option, value in (("service-account", wishes.service_account), *(("secret", s) for s in wishes.secrets)):
        if not _SECRET.fullmatch(value):
            raise ConfigError(f"--{option} takes the name of an object on Kubernetes: small letters, digits, dashes")


def _read(wishes: Wishes) -> tuple[str, Job, str]:
    """The job file's text, the job, and its output as the file gives it, ``{date}`` and all."""
    try:
        text = storage.read_bytes(wishes.job).decode()
        data = yaml.safe_load(text)
    except ObjectMissing:
        raise ConfigError(f"no job file at {wishes.job}; give the address of a YAML file") from None
    except StorageError as error:
        raise ConfigError(f"the job file cannot be read: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{wishes.job} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{wishes.job} holds {type(data).__name__}, not a mapping of job fields")
    data = overridden(data, wishes.overrides)
    job = parse_job(data, wishes.job)
    for where, address in _addresses(job.model_dump(exclude={"output"}), ""):
        _check_address(where, address)
    _check_address("output", data["output"])
    for override in wishes.overrides:
        if not _PLAIN.fullmatch(override):
            raise ConfigError(f"--set {override!r} holds signs that a shell reads; write it into the job file instead")
    return text, job, data["output"]


def _addresses(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every field that is an address or holds some, with its path in the job."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            path = f"{where}.{name}" if where else str(name)
            if name in _OWN_NAMES:
                continue
            yield from _leaves(inner, path) if name in _ADDRESSES else _addresses(inner, path)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _addresses(inner, f"{where}.{number}")


def _leaves(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{where}.{name}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{where}.{number}")


def _check_address(where: str, address: str) -> None:
    if address.startswith(_NOT_FILES):
        return
    if storage.local_path(address) is not None or address.startswith("memory://"):
        raise ConfigError(f"{where} is {address!r}, a file of this machine, which no pod has; put it on s3:// or such")


def _objects(wishes: Wishes, text: str, job: Job, output: str) -> Iterator[dict[str, Any]]:
    origin = Origin(kubernetes_name(job.name), wishes.namespace, wishes.queue)
    part = share(job, wishes.gpus, wishes.workers)
    is_remote = storage.local_path(wishes.job) is None
    has_file = wishes.kind != "raycluster" and not is_remote
    cluster = Cluster(
        image=wishes.image,
        ray_version=version("ray"),
        service_account=wishes.service_account,
        workers=part.workers,
        decodes=part.decodes,
        secrets=wishes.secrets,
        job=origin.name if has_file else None,
        spot=wishes.spot,
        grows=wishes.queue is None,  # Kueue counts pods before it lets them start; those that come later it cannot
    )
    if wishes.kind == "raycluster":
        yield kube_object("ray.io/v1", "RayCluster", origin, spec=ray_cluster_spec(cluster))
        return
    address = wishes.job if is_remote else f"{JOB_FOLDER}/{JOB_FILE}"
    entrypoint = _entrypoint(wishes, part, address, output)
    spec = ray_job_spec(cluster, entrypoint, _deadline(wishes), is_queued=wishes.queue is not None)
    once = kube_object("ray.io/v1", "RayJob", origin, spec=spec)
    files = {JOB_FILE: text} if has_file else {}
    if wishes.kind == "cronjob":
        files[NIGHT_FILE] = _yaml(once)
    if files:
        yield kube_object("v1", "ConfigMap", origin, data=files)
    if wishes.kind == "cronjob":
        dated = "date" if is_daily_at_most(str(wishes.cron)) else "minute"
        yield cron_job(origin, wishes.image, str(wishes.cron), wishes.timezone, dated, _deadline(wishes))
    elif wishes.kind == "raycronjob":
        timed = {"schedule": wishes.cron, "timeZone": wishes.timezone, "jobTemplate": spec}
        yield kube_object("ray.io/v1", "RayCronJob", origin, spec=timed)
    else:
        yield once


def _deadline(wishes: Wishes) -> int:
    """Seconds that one try may take: nearly the time to the next run, a day at most."""
    gap = DAY if wishes.cron is None else min(DAY, shortest_gap(wishes.cron))
    return int(gap.total_seconds() * 23 / 24)


def _entrypoint(wishes: Wishes, part: Share, address: str, output: str) -> str:
    settings = [*wishes.overrides, *part.settings]
    words = ["retouch", part.command, address, "--address", "auto", *(f"--set {setting}" for setting in settings)]
    if wishes.kind == "cronjob" and DATE in output:
        words.append(f"--date {DATE}")  # the night's is put in, so that a retry after midnight goes on there
    for word in (address, *settings):
        if not _PLAIN.fullmatch(word):
            raise ConfigError(f"{word!r} holds signs that a shell reads, and passes two of them; name it otherwise")
    return " ".join(words)


def _notes(wishes: Wishes, output: str) -> Iterator[str]:
    if wishes.kind == "raycronjob":
        yield "RayCronJob is alpha: KubeRay's operator needs the feature gate RayCronJob=true."
        yield "It has no concurrencyPolicy, no history limits and no starting deadline: overlaps end with exit code 3."
    if wishes.kind in ("raycronjob", "rayjob") and DATE in output:
        yield "{date} is the day (UTC) of a try: after midnight a retry begins anew. Of a cronjob it is not."
    if wishes.kind == "raycluster":
        yield "A cluster that stays: it costs what its head and one CPU pod cost, also when it has nothing to do."


def _yaml(value: Mapping[str, Any]) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=1000)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, and no anchors: both are for reading."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
