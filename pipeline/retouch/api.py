"""The Python API, exported by ``import retouch``: edit arrays, run a job, read a run's results. Works without Ray.

::

    from retouch import load_editor

    editor = load_editor("blended_diffusion", "embedded:shapes", timesteps=30, skip_timesteps=1)
    edited = editor(image, mask, prompt="a red circle", seed=0, candidates=4)
    edited.image     # [H, W, 3] uint8; identical to the source outside the mask

The noise of candidate k is drawn from (seed, key, k). So a row of a run gives the same pixels here if ``key`` is the
row's key, and seed, weights, params, ``candidates``, ``fit`` and ``batch_size`` are the job's, on the same kind of
device.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import pyarrow as pa
import pyarrow.dataset as pads

from retouch import plugins, storage
from retouch.errors import ConfigError, OutputError
from retouch.execution.edit import run
from retouch.execution.engine import Engine
from retouch.execution.lifecycle import Executor
from retouch.execution.outcomes import KeptCandidate, Outcome
from retouch.execution.plan import engine_spec
from retouch.execution.progress import Mode
from retouch.execution.stages import composite
from retouch.execution.summary import Summary
from retouch.imaging.inputs import ImageLike, image_cell, mask_cell
from retouch.jobs import placeholders
from retouch.jobs.config import EditJob, Job, Weights, load_job, parse_job
from retouch.jobs.overrides import apply_overrides
from retouch.manifests.decode import DecodeSpec, decode
from retouch.models.devices import best_device
from retouch.outputs import results
from retouch.outputs.edited import Candidate as Candidate
from retouch.outputs.edited import Edited as Edited
from retouch.outputs.edited import read_edited as read_edited

KEY = "image"  # key of an edit without one


class LoadedEditor:
    """An editor with its networks on a device, made by ``load_editor``. Call it with an image.

    Threads may share one: they decode in parallel and edit one at a time.
    """

    def __init__(self, engine: Engine, decode_spec: DecodeSpec) -> None:
        self._engine, self._decode = engine, decode_spec
        self._in_turns = threading.Lock()

    @property
    def name(self) -> str:
        """The editor's name in a job."""
        return self._engine.spec.editor

    @property
    def image_size(self) -> int:
        """Height and width of the network's input; images may have any size."""
        return self._engine.editor.image_size

    def __repr__(self) -> str:
        params = "".join(f", {name}={value!r}" for name, value in self._engine.spec.params.items())
        return f"LoadedEditor({self.name!r}, image_size={self.image_size}{params})"

    def __call__(
        self,
        image: ImageLike,
        mask: ImageLike | None = None,
        prompt: str = "",
        *,
        bbox: Sequence[float] | None = None,
        exemplar: ImageLike | None = None,
        control: ImageLike | None = None,
        negative_prompt: str | None = None,
        source_prompt: str | None = None,
        checkpoint: str | None = None,
        landmarks: Sequence[float] | None = None,
        seed: int = 0,
        candidates: int = 1,
        key: str = KEY,
        **params: Any,
    ) -> Edited:
        """Edit one image of any size.

        Args:
            image: array [H, W, 3] uint8, Pillow image, path, URL or a file's bytes.
            mask: [H, W] bool, or an image that is white where to edit. Without mask and bbox the whole image is edited.
            prompt: what to paint; with an empty one, some editors fill the region from its surroundings.
            bbox: x0, y0, x1, y1 in pixels, instead of a mask.
            exemplar: an image of what to paint, for editors that read one.
            control: an image that guides the structure, as large as ``image``, for editors that read one.
            negative_prompt: what not to paint, for editors that read one.
            source_prompt: what the image shows, for editors and metrics that read it.
            checkpoint: the tuned network: a role of the weights, or a file's address.
            landmarks: x0, y0, x1, y1, ... of the face to edit with ``fit="face"``.
            seed: 0 or more; the same seed gives the same pixels.
            candidates: how many edits to make; all are kept, ranked by the editor.
            key: part of the noise's seed, like a row's key in a run.
            **params: parameters of the editor for this image only.

        Raises:
            LoadError: the image, the mask or another input cannot be used.
            EditError: the edit failed.
            ConfigError: an unknown or invalid parameter.
        """
        if candidates < 1:
            raise ConfigError(f"candidates: got {candidates}; give 1 or more")
        plugins.check_params(self._engine.params_type, {**self._engine.spec.params, **params}, "params")
        request = {
            "key": key,
            "fingerprint": "",
            "image": image_cell(image),
            "mask": None if mask is None else mask_cell(mask),
            "bbox": bbox,
            "prompt": prompt,
            "exemplar": None if exemplar is None else image_cell(exemplar, "exemplar"),
            "control": None if control is None else image_cell(control, "control"),
            "negative_prompt": negative_prompt,
            "source_prompt": source_prompt,
            "checkpoint": checkpoint,
            "landmarks": landmarks,
            "seed": seed,
            "params": params,
        }
        sample = decode(request, self._decode)
        with self._in_turns:
            (outcome,) = self._engine.edit([sample], candidates=candidates)
        if outcome.failure is not None:
            raise outcome.failure.error()
        return _edited(outcome)


def load_editor(
    name: str,
    weights: Weights | None = None,
    *,
    metrics: Sequence[str] = (),
    fit: Literal["auto", "crop", "resize", "face"] = "auto",
    mask: Mapping[str, Any] | None = None,
    images: Mapping[str, Any] | None = None,
    canvas: Mapping[str, Any] | None = None,
    output_size: Literal["native", "network"] = "native",
    align: bool = False,
    batch_size: int = 8,
    device: str | None = None,
    **params: Any,
) -> LoadedEditor:
    """Load an editor and its networks.

    Args:
        name: name of an installed editor (see ``retouch plugins``), or ``package.module:Class``.
        weights: as in a job: an address, or one or more addresses per role; None for an editor without weights.
        metrics: names of metrics that score each candidate, with the same weights.
        fit: how an image is fitted to the network's size, as in a job.
        mask: how mask images are read, like the job's ``mask``: ``{"invert": True}``.
        images: which files are decoded, like the job's ``images``: ``{"max_pixels": 120_000_000}``.
        canvas: paint beyond the borders, like the job's ``canvas``: ``{"left": 0.25, "prompt_left": "the sea"}``.
        output_size: of images that are edited whole, as in a job.
        align: move edits back that the model has shifted, as in a job.
        batch_size: candidates per forward pass. Another size may round pixels differently.
        device: ``cuda``, ``cuda:1`` or ``cpu``; None: the GPU if there is one.
        **params: parameters of the editor, as in a job's ``editor.params``.

    Raises:
        PluginError: unknown editor or metric.
        ConfigError: an invalid parameter or argument.
        WeightsError: weights that cannot be fetched or loaded.
    """
    editor: Any = plugins.find("editors", name)
    data = {
        "name": "python",
        "manifest": "none",
        "output": "none",
        "editor": {"name": name, "weights": weights or {}, "params": params},
        "metrics": list(metrics),
        "fit": fit,
        "mask": dict(mask or {}),
        "images": dict(images or {}),
        "canvas": None if canvas is None else dict(canvas),
        "output_size": output_size,
        "align": align,
        "ray": {"batch_size": batch_size},
    }
    job = _edit_job(parse_job(data, "load_editor"))
    checked = plugins.check_params(editor.Params, params, "params")
    decode_spec = DecodeSpec(
        inputs=frozenset(editor.inputs),
        mask=job.mask,
        images=job.images,
        canvas=job.canvas,
        needs=getattr(checked, "needs", frozenset()),
        params=params,
        params_type=editor.Params,
    )
    spec = replace(engine_spec(job), output=None, seconds=None)  # no other process could retry its rows
    return LoadedEditor(Engine(spec, device or best_device()), decode_spec)


def run_job(
    job: str | Mapping[str, Any] | EditJob,
    overrides: Mapping[str, Any] | None = None,
    *,
    executor: Executor = "ray",
    address: str | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    date: str | None = None,
    progress: Mode = "auto",
) -> Summary:
    """Run an edit job, like ``retouch run``. Calling it again resumes where it left off.

    Args:
        job: address of a job file, its content as a mapping, or a job.
        overrides: values by the path of their field: ``{"editor.params.timesteps": 20, "output": "runs/try"}``.
        executor: ``ray``, or ``local`` for this process without Ray.
        address: of a running Ray cluster; None: start one on this machine.
        limit: edit only the first ``limit`` rows of the manifest.
        retry_failed: run failed rows again.
        date: value of ``{date}`` in addresses.
        progress: how progress is shown: ``auto``, ``plain``, ``json`` or ``quiet``.

    Returns:
        A summary: ``output``, ``statuses``, ``exit_code`` (1 if more rows failed than the job allows), ...

    Raises:
        StopRun: the job, its manifest, weights or plug-ins are wrong; nothing was started.
        OverBudget: more rows failed than the job allows, before the end.
        Interrupted: stopped before the end.
    """
    return run(
        _job(job, overrides or {}, date),
        executor=executor,
        address=address,
        limit=limit,
        retry_failed=retry_failed,
        progress=progress,
    )


def _job(job: str | Mapping[str, Any] | EditJob, overrides: Mapping[str, Any], date: str | None) -> EditJob:
    set_ = [f"{path}={json.dumps(value)}" for path, value in overrides.items()]  # JSON is YAML
    if isinstance(job, str):
        return _edit_job(load_job(job, set_, date))
    data = job.model_dump(mode="json") if isinstance(job, EditJob) else job
    return _edit_job(
        parse_job(
            placeholders.fill_placeholders(apply_overrides(data, set_), placeholders.resolve_date(date)), "the job"
        )
    )


def _edit_job(job: Job) -> EditJob:
    if isinstance(job, EditJob):
        return job
    raise ConfigError(f"the job is of kind {job.kind}; run_job takes kind edit, use the retouch command for others")


def read_results(output: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a run's results, one row per key, sorted by key. Works during the run, too.

    Raises:
        OutputError: there are no results.
        StorageError: a file cannot be read.
    """
    if not results.files(output):
        raise OutputError(f"{output} holds no results; a run writes them to {output}/{results.FOLDER}")
    return results.read(output, columns)


def results_dataset(output: str) -> pads.Dataset:
    """Return a finished run's results as an Arrow dataset, which is read lazily, for millions of rows.

    During a run, a row that was retried may be there twice; ``read_results`` returns only its current result.

    Raises:
        OutputError: there are no results.
    """
    files = results.files(output)
    if not files:
        raise OutputError(f"{output} holds no results; a run writes them to {output}/{results.FOLDER}")
    filesystem = storage.filesystem(output)[0]
    return pads.dataset([storage.filesystem(file)[1] for file in files], format="parquet", filesystem=filesystem)


def _edited(outcome: Outcome) -> Edited:
    sample = outcome.sample
    assert sample.source is not None
    assert sample.mask is not None
    return Edited(
        source=sample.source,
        mask=sample.mask,
        candidates=[_candidate(outcome, kept) for kept in outcome.kept],
        prompt=sample.prompt,
        exemplar=sample.exemplar,
        profile=sample.profile,
    )


def _candidate(outcome: Outcome, kept: KeptCandidate) -> Candidate:
    made = composite(outcome, kept)
    return Candidate(made.pixels, kept.candidate, kept.seed, dict(kept.scores), made.alpha, outcome.sample.profile)
