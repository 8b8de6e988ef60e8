"""The training of one fine-tuning target from its manifest to its finished file; resumes from a checkpoint."""

from __future__ import annotations

import copy
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save
from torch import Tensor

from retouch import plugins, storage
from retouch.editors.runtime import deterministic_kernels, from_uint8, to_uint8
from retouch.errors import ConfigError, EditError, ManifestError, ObjectMissing, OutputError, WeightsError
from retouch.imaging import framing
from retouch.jobs.config import MaskSpec, Weights
from retouch.jobs.finetune_params import FinetuneParams
from retouch.manifests import reader
from retouch.manifests.decode import DecodeSpec, decode
from retouch.manifests.fingerprints import with_fingerprints
from retouch.manifests.samples import Sample
from retouch.models import weights
from retouch.models.arcface import identity_loss, load_arcface
from retouch.models.checkpoint import read_state
from retouch.models.clip import load_clip
from retouch.models.unet import Network, load_unet
from retouch.redaction import redacted_all
from retouch.schema import Pixels
from retouch.training.finetune.losses import Losses
from retouch.training.finetune.texts import Texts, directions
from retouch.training.finetune.trainer import Trainer, TrainingData, invert, translate
from retouch.training.plots import contact_sheet, loss_curves

VERSION: Final = "1"  # of the training; bump it when the same task gives other weights
NETWORKS: Final = "networks"  # folder of finished files in the output
STATE: Final = "state"  # folder of checkpoints
# The only columns that are read besides image, mask and landmarks.
TEXTS: Final = ("source_prompt", "prompt")


@dataclass(frozen=True)
class TargetTask:
    """One target's training, as plain data that can be sent to a worker."""

    name: str
    manifests: tuple[str, ...]
    output: str
    weights: Weights
    params: Mapping[str, Any]
    seed: int
    texts: Texts | None = None  # None: each row has its own
    fit: framing.Fit = "auto"
    mask: MaskSpec = field(default_factory=MaskSpec)

    @property
    def file(self) -> str:
        """Address of the finished network."""
        return storage.join(self.output, NETWORKS, f"{self.name}.safetensors")


@dataclass(frozen=True)
class TrainingImages:
    """The images to train on, followed by those that are only shown on the sheet."""

    images: Pixels  # [N,S,S,3]
    masks: Any  # [N,S,S] bool
    texts: tuple[Texts, ...]


def tune(task: TargetTask, device: str, report: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Train one target to the end. Return its record, which is also written as JSON next to the network.

    Args:
        task: the target.
        device: where the networks run.
        report: called with lines about progress.

    Raises:
        StopRun: rows, weights or texts cannot be used, or the output holds another training's file.
    """
    params: FinetuneParams = plugins.check_params(FinetuneParams, task.params, f"target {task.name}: params")
    resolved = weights.resolve(task.weights)
    rows = _rows(task, params)
    identity = redacted_all(_identity(task, params, resolved.sha256, rows))
    if (record := _record(task)) is not None:
        _check_identity(task, record.get("decides", {}), identity)
        storage.delete(_state_file(task))  # left over if the process was killed after it wrote the record
        report(f"{task.name}: already done")
        return record
    return _TargetTraining(task, params, resolved.files, rows, identity, device, report).run()


class _TargetTraining:
    """The training of one target."""

    def __init__(
        self,
        task: TargetTask,
        params: FinetuneParams,
        files: Mapping[str, str],
        rows: pa.Table,
        identity: Mapping[str, Any],
        device: str,
        report: Callable[[str], None],
    ) -> None:
        self.task, self.params, self.files, self.identity, self.device, self.report = (
            task, params, files, identity, device, report,
        )  # fmt: skip
        for role in ["unet", "clip", *(["arcface"] if params.identity_weight else [])]:
            if role not in files:
                raise WeightsError(f"target {task.name}: fine-tuning needs weights for {role}; name them in the job")
        self.source = load_unet(files["unet"], device)
        self.clip = load_clip(files["clip"], device)
        self.images = _read(task, rows, self.source.image_size, files)

    def run(self) -> dict[str, Any]:
        with deterministic_kernels(self.device):  # also for the texts: a Ray worker has other threads
            return self._run()

    def _run(self) -> dict[str, Any]:
        self.report(f"{self.task.name}: inverting {len(self.images.images)} images")
        x0 = from_uint8(self.images.images, self.device)
        latent = invert(self.source, x0, self.params.t_0, self.params.n_inv)
        trainer = Trainer(_copy(self.source), self._data(x0, latent), self._losses(), self.params, self.task.seed)
        if (state := _state(self.task)) is not None:
            _check_identity(self.task, json.loads(state["decides"]), self.identity)
            trainer.restore(state)
            self.report(f"{self.task.name}: resuming at batch {trainer.progress.update} of {trainer.total}")
        trainer.run(self._after_batch)
        tuned = Network(**{**vars(self.source), "module": trainer.module.requires_grad_(requires_grad=False)})
        return self._write(tuned, x0, latent, trainer)

    def _data(self, x0: Tensor, latent: Tensor) -> TrainingData:
        n = self.params.images
        mask = torch.from_numpy(self.images.masks[:n]).to(self.device)[:, None].float()
        try:
            direction, target = directions(self.images.texts[:n], self.clip.encode_text, self.params.templates)
        except EditError as error:  # fails a row in an edit; here training is impossible without it
            raise ConfigError(f"target {self.task.name}: {error}; give shorter texts, or templates: none") from error
        if self.params.direction_weight and not bool(direction.any(dim=1).all()):
            raise ConfigError(f"target {self.task.name}: both texts are the same to CLIP; give texts that differ")
        return TrainingData(x0[:n], latent[:n], mask, direction, target)

    def _losses(self) -> Losses:
        identity = None
        if self.params.identity_weight:
            arcface = load_arcface(self.files["arcface"], self.device)
            identity = lambda edited, source: identity_loss(arcface, edited, source)  # noqa: E731
        return Losses(self.params, self.clip.encode_image, self.clip.image_size, identity)

    def _after_batch(self, trainer: Trainer) -> None:
        done = trainer.progress.update
        if done % trainer.batches == 0:
            self.report(f"{self.task.name}: batch {done} of {trainer.total}, {_terms(trainer.progress.curves[-1])}")
        if done % self.params.save_every == 0 and done < trainer.total:
            out = io.BytesIO()
            torch.save({**trainer.state(), "decides": json.dumps(self.identity)}, out)
            storage.write_bytes(_state_file(self.task), out.getvalue())

    def _write(self, tuned: Network, x0: Tensor, latent: Tensor, trainer: Trainer) -> dict[str, Any]:
        """Write the network, sheet, curves and record. The record is last: it marks the target as complete."""
        task, base = self.task, storage.join(self.task.output, NETWORKS, self.task.name)
        dtype = getattr(torch, self.params.dtype)
        state = {k: v.detach().to("cpu", dtype) for k, v in tuned.module.state_dict().items()}
        data = save({k: v.contiguous() for k, v in tuned.published(state).items()}, {"format": "pt"})
        storage.write_bytes(task.file, data)
        storage.write_bytes(f"{base}-sheet.png", self._sheet(tuned, x0, latent))
        storage.write_bytes(f"{base}-curves.png", loss_curves(trainer.progress.curves, task.name))
        storage.write_table(f"{base}-losses.parquet", pa.Table.from_pylist(trainer.progress.curves))
        record = {
            **self.source.card,
            "name": task.name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "decides": dict(self.identity),
            "texts": sorted({f"{pair.source} -> {pair.target}" for pair in self.images.texts})[:20],
            "last": trainer.progress.curves[-1],
        }
        storage.write_bytes(f"{base}.json", (json.dumps(redacted_all(record), indent=1) + "\n").encode())
        storage.delete(_state_file(task))
        self.report(f"{task.name}: done, {_terms(trainer.progress.curves[-1])}")
        return record

    def _sheet(self, tuned: Network, x0: Tensor, latent: Tensor) -> bytes:
        """Return a PNG of sources, reconstructions and translations: of the test images, or else of the first 8."""
        n = self.params.images
        shown = slice(n, None) if len(x0) > n else slice(0, 8)
        rows = [x0[shown]]
        rows += [translate(net, latent[shown], self.params.t_0, self.params.n_test) for net in (self.source, tuned)]
        return contact_sheet([to_uint8(row) for row in rows])


def _rows(task: TargetTask, params: FinetuneParams) -> pa.Table:
    """Return the manifest's first rows: those to train on, then the test images."""
    table = reader.read(task.manifests).table
    if table.num_rows < params.images:
        raise ManifestError(
            f"target {task.name} trains on {params.images} images and its manifest has {table.num_rows}; "
            "give more rows, or lower images"
        )
    return with_fingerprints(table.slice(0, params.images + params.test_images), {})


def _read(task: TargetTask, rows: pa.Table, size: int, files: Mapping[str, str]) -> TrainingImages:
    """Return the rows' images at the network's size. A row that cannot be read stops the training; none is skipped.

    Raises:
        ManifestError: a row cannot be read.
    """
    detector = framing.detector_for(task.fit, files)
    spec = DecodeSpec(frozenset({"mask"}), task.mask)
    images, masks, texts = [], [], []
    for request in rows.to_pylist():
        sample = decode(request, spec)
        if sample.source is None or sample.mask is None:
            raise _unreadable(task, sample, sample.failure.message if sample.failure else "it has no pixels")
        source = sample.as_seen()
        try:
            view = framing.frame(
                source,
                sample.mask,
                size,
                task.fit,
                landmarks=sample.landmarks,
                detector=detector,
                context=task.mask.context,
            )
        except Exception as error:
            raise _unreadable(task, sample, str(error)) from error
        images.append(view.extract(source, (size, size)))
        masks.append(view.extract_mask(sample.mask, (size, size)))
        texts.append(task.texts or _texts_of(task, request))
    return TrainingImages(np.stack(images), np.stack(masks), tuple(texts))


def _texts_of(task: TargetTask, request: Mapping[str, Any]) -> Texts:
    source, target = (request.get(column) or "" for column in TEXTS)
    if not source.strip() or not target.strip():
        raise ManifestError(
            f"target {task.name} has no texts and row {request['key']!r} lacks {' or '.join(TEXTS)}; "
            "give the target source_prompt and prompt, or a domain, or fill the columns"
        )
    return Texts(source.strip(), target.strip())


def _unreadable(task: TargetTask, sample: Sample, reason: str) -> ManifestError:
    return ManifestError(f"target {task.name} cannot train on row {sample.key!r}: {reason}; fix it or leave it out")


def _identity(task: TargetTask, params: FinetuneParams, sha256: Mapping[str, str], rows: pa.Table) -> dict[str, Any]:
    """Return all that determines a target's weights; a checkpoint or file with another identity is not reused."""
    roles = ("unet", "clip", "arcface", framing.ROLE)
    read = [name for role in roles for name in (role, f"{role}.json")]  # sidecars count, too: CLIP's mean, for example
    return {
        "version": VERSION,
        "params": {k: v for k, v in asdict(params).items() if k != "save_every"},
        "seed": task.seed,
        "texts": None if task.texts is None else asdict(task.texts),
        "rows": hashlib.sha256(json.dumps(rows["fingerprint"].to_pylist()).encode()).hexdigest(),
        "fit": task.fit,
        "mask": task.mask.identity(),
        "weights_sha256": {name: sha256[name] for name in read if name in sha256},
    }


def _check_identity(task: TargetTask, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differ = sorted(name for name in {*recorded, *wanted} if recorded.get(name) != wanted.get(name))
    if differ:
        raise OutputError(
            f"{task.output} holds another training of {task.name} (it differs in {', '.join(differ)}); "
            "give another output, or delete that target's files"
        )


def _record(task: TargetTask) -> dict[str, Any] | None:
    """Return the record of a finished target; None if it is missing or its network was deleted."""
    if not storage.exists(task.file):
        return None
    try:
        found: dict[str, Any] = json.loads(storage.read_bytes(task.file.removesuffix(".safetensors") + ".json"))
    except ObjectMissing:
        return None
    return found


def _state(task: TargetTask) -> dict[str, Any] | None:
    try:
        data = storage.read_bytes(_state_file(task))
    except ObjectMissing:
        return None
    return read_state(data, _state_file(task))


def _state_file(task: TargetTask) -> str:
    return storage.join(task.output, STATE, f"{task.name}.ckpt")


def _copy(network: Network) -> Network:
    return Network(**{**vars(network), "module": copy.deepcopy(network.module)})


def _terms(curve: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in curve.items() if name not in ("batch", "learning_rate"))
