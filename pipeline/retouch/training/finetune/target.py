"""One target of a fine-tuning, from its manifest to its finished file; where it was stopped, it goes on.

Runs wherever there are files and a device: here, or in a worker. Knows no cluster and no other target.
"""

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
from retouch.training.finetune.trainer import Material, Trainer, latents, translated
from retouch.training.plots import contact_sheet, loss_curves

VERSION: Final = "1"  # of the training; another one makes other weights
NETWORKS: Final = "networks"  # folder of finished files in the output
STATE: Final = "state"  # folder of what a stopped run goes on from
# Nothing but these two columns is read of a row beside its image, mask and landmarks.
TEXTS: Final = ("source_prompt", "prompt")


@dataclass(frozen=True)
class TargetTask:
    """All that a worker is told: plain data."""

    name: str
    manifests: tuple[str, ...]
    output: str
    weights: Weights
    params: Mapping[str, Any]
    seed: int
    texts: Texts | None = None  # None: each row brings its own
    fit: framing.Fit = "auto"
    mask: MaskSpec = field(default_factory=MaskSpec)

    @property
    def file(self) -> str:
        """Address of the finished network."""
        return storage.join(self.output, NETWORKS, f"{self.name}.safetensors")


@dataclass(frozen=True)
class Learned:
    """The rows that are learned from, then those that are only looked at."""

    images: Pixels  # [N,S,S,3]
    masks: Any  # [N,S,S] bool
    texts: tuple[Texts, ...]


def tune(task: TargetTask, device: str, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Bring one target to its end; returns its record, which also stands beside the file as JSON.

    Args:
        task: what is asked for.
        device: where the networks go.
        say: is told of progress, a line at a time.

    Raises:
        StopRun: rows, weights or texts that cannot be learned from, or an output that holds another training's file.
    """
    params: FinetuneParams = plugins.check_params(FinetuneParams, task.params, f"target {task.name}: params")
    resolved = weights.resolve(task.weights)
    rows = _rows(task, params)
    decides = redacted_all(_decides(task, params, resolved.sha256, rows))
    if (done := _record(task)) is not None:
        _refuse_other(task, done.get("decides", {}), decides)
        storage.delete(_state_file(task))  # there is one where a kill came between the record and the end
        say(f"{task.name}: already there")
        return done
    return _Tuning(task, params, resolved.files, rows, decides, device, say).carry_out()


class _Tuning:
    """The parts of one training, in the order that they are needed."""

    def __init__(
        self,
        task: TargetTask,
        params: FinetuneParams,
        files: Mapping[str, str],
        rows: pa.Table,
        decides: Mapping[str, Any],
        device: str,
        say: Callable[[str], None],
    ) -> None:
        self.task, self.params, self.files, self.decides, self.device, self.say = (
            task, params, files, decides, device, say,
        )  # fmt: skip
        for role in ["unet", "clip", *(["arcface"] if params.identity_weight else [])]:
            if role not in files:
                raise WeightsError(f"target {task.name}: fine-tuning needs weights for {role}; name them in the job")
        self.source = load_unet(files["unet"], device)
        self.clip = load_clip(files["clip"], device)
        self.learned = _read(task, rows, self.source.image_size, files)

    def carry_out(self) -> dict[str, Any]:
        with deterministic_kernels(self.device):  # of the texts, too: a worker of Ray has other threads than a shell
            return self._carried_out()

    def _carried_out(self) -> dict[str, Any]:
        self.say(f"{self.task.name}: inverting {len(self.learned.images)} images")
        x0 = from_uint8(self.learned.images, self.device)
        latent = latents(self.source, x0, self.params.t_0, self.params.n_inv)
        trainer = Trainer(_copy(self.source), self._material(x0, latent), self._losses(), self.params, self.task.seed)
        if (state := _state(self.task)) is not None:
            _refuse_other(self.task, json.loads(state["decides"]), self.decides)
            trainer.restore(state)
            self.say(f"{self.task.name}: goes on at batch {trainer.progress.update} of {trainer.total}")
        trainer.run(self._after_batch)
        tuned = Network(**{**vars(self.source), "module": trainer.module.requires_grad_(requires_grad=False)})
        return self._write(tuned, x0, latent, trainer)

    def _material(self, x0: Tensor, latent: Tensor) -> Material:
        n = self.params.images
        mask = torch.from_numpy(self.learned.masks[:n]).to(self.device)[:, None].float()
        try:
            direction, target = directions(self.learned.texts[:n], self.clip.encode_text, self.params.templates)
        except EditError as error:  # a row's fault elsewhere; here nothing can be learned without it
            raise ConfigError(f"target {self.task.name}: {error}; give shorter texts, or templates: none") from error
        if self.params.direction_weight and not bool(direction.any(dim=1).all()):
            raise ConfigError(f"target {self.task.name}: both texts are the same to CLIP; give texts that differ")
        return Material(x0[:n], latent[:n], mask, direction, target)

    def _losses(self) -> Losses:
        identity = None
        if self.params.identity_weight:
            arcface = load_arcface(self.files["arcface"], self.device)
            identity = lambda edited, source: identity_loss(arcface, edited, source)  # noqa: E731
        return Losses(self.params, self.clip.encode_image, self.clip.image_size, identity)

    def _after_batch(self, trainer: Trainer) -> None:
        done = trainer.progress.update
        if done % trainer.batches == 0:
            self.say(f"{self.task.name}: batch {done} of {trainer.total}, {_said(trainer.progress.curves[-1])}")
        if done % self.params.save_every == 0 and done < trainer.total:
            out = io.BytesIO()
            torch.save({**trainer.state(), "decides": json.dumps(self.decides)}, out)
            storage.write_bytes(_state_file(self.task), out.getvalue())

    def _write(self, tuned: Network, x0: Tensor, latent: Tensor, trainer: Trainer) -> dict[str, Any]:
        """The file and what belongs to it; the record last, for it says that all is there."""
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
            "decides": dict(self.decides),
            "texts": sorted({f"{pair.source} -> {pair.target}" for pair in self.learned.texts})[:20],
            "last": trainer.progress.curves[-1],
        }
        storage.write_bytes(f"{base}.json", (json.dumps(redacted_all(record), indent=1) + "\n").encode())
        storage.delete(_state_file(task))
        self.say(f"{task.name}: done, {_said(trainer.progress.curves[-1])}")
        return record

    def _sheet(self, tuned: Network, x0: Tensor, latent: Tensor) -> bytes:
        """Source, reconstruction, translation of the images that were not learned from, or of the first that were."""
        n = self.params.images
        shown = slice(n, None) if len(x0) > n else slice(0, 8)
        rows = [x0[shown]]
        rows += [translated(net, latent[shown], self.params.t_0, self.params.n_test) for net in (self.source, tuned)]
        return contact_sheet([to_uint8(row) for row in rows])


def _rows(task: TargetTask, params: FinetuneParams) -> pa.Table:
    """The manifest's first rows, as many as are learned from and looked at."""
    table = reader.read(task.manifests).table
    if table.num_rows < params.images:
        raise ManifestError(
            f"target {task.name} learns from {params.images} images and its manifest has {table.num_rows}; "
            "give more rows, or lower images"
        )
    return reader.with_fingerprints(table.slice(0, params.images + params.test_images), {})


def _read(task: TargetTask, rows: pa.Table, size: int, files: Mapping[str, str]) -> Learned:
    """Rows to images at the network's size. A row that cannot be read stops the training: none is left out in silence.

    Raises:
        ManifestError: names the row.
    """
    detector = framing.detector_for(task.fit, files)
    spec = DecodeSpec(frozenset({"mask"}), task.mask)
    images, masks, texts = [], [], []
    for request in rows.to_pylist():
        sample = decode(request, spec)
        if sample.source is None or sample.mask is None:
            raise _unreadable(task, sample, sample.failure.message if sample.failure else "it has no pixels")
        try:
            view = framing.frame(
                sample.source, sample.mask, size, task.fit, landmarks=sample.landmarks, detector=detector
            )
        except Exception as error:
            raise _unreadable(task, sample, str(error)) from error
        images.append(view.extract(sample.source, size))
        masks.append(view.extract_mask(sample.mask, size))
        texts.append(task.texts or _texts_of(task, request))
    return Learned(np.stack(images), np.stack(masks), tuple(texts))


def _texts_of(task: TargetTask, request: Mapping[str, Any]) -> Texts:
    source, target = (request.get(column) or "" for column in TEXTS)
    if not source.strip() or not target.strip():
        raise ManifestError(
            f"target {task.name} has no texts and row {request['key']!r} lacks {' or '.join(TEXTS)}; "
            "give the target source_prompt and prompt, or a domain, or fill the columns"
        )
    return Texts(source.strip(), target.strip())


def _unreadable(task: TargetTask, sample: Sample, reason: str) -> ManifestError:
    return ManifestError(f"target {task.name} cannot learn from row {sample.key!r}: {reason}; mend it or leave it out")


def _decides(task: TargetTask, params: FinetuneParams, sha256: Mapping[str, str], rows: pa.Table) -> dict[str, Any]:
    """What decides the weights of a target; a state or file that was made of something else is not taken up."""
    roles = ("unet", "clip", "arcface", framing.ROLE)
    read = [name for role in roles for name in (role, f"{role}.json")]  # a card decides, too: CLIP's mean, say
    return {
        "version": VERSION,
        "params": {k: v for k, v in asdict(params).items() if k != "save_every"},
        "seed": task.seed,
        "texts": None if task.texts is None else asdict(task.texts),
        "rows": hashlib.sha256(json.dumps(rows["fingerprint"].to_pylist()).encode()).hexdigest(),
        "fit": task.fit,
        "mask": task.mask.model_dump(),
        "weights_sha256": {name: sha256[name] for name in read if name in sha256},
    }


def _refuse_other(task: TargetTask, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    differ = sorted(name for name in {*theirs, *mine} if theirs.get(name) != mine.get(name))
    if differ:
        raise OutputError(
            f"{task.output} holds another training of {task.name} (it differs in {', '.join(differ)}); "
            "give another output, or delete that target's files"
        )


def _record(task: TargetTask) -> dict[str, Any] | None:
    """What was written last of a finished target; None where there is none, or its network was taken away."""
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


def _said(curve: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in curve.items() if name not in ("batch", "learning_rate"))
