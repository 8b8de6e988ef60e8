"""Retouch from Python: an editor over arrays, a job, a run's results. What ``import pipeline`` offers, without Ray.

::

    from retouch import load_editor

    editor = load_editor("blended_diffusion", "embedded:shapes", timesteps=30, skip_timesteps=1)
    edited = editor(image, mask, prompt="a red circle", seed=0, candidates=4)
    edited.image     # [H, W, 3] uint8; outside the mask the source, bit for bit

**The same pixels as a run.** The noise of candidate k is drawn from (seed, key, k). A row of a run gives the same
pixels here where ``key`` is the row's key and seed, weights, params, ``candidates``, ``fit`` and ``batch_size`` are the
job's, on the same kind of device.
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
from retouch.execution.edit import run as answer_rows
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

KEY = "image"  # of an edit that is given none


class LoadedEditor:
    """An editor with its networks on a device; call it with an image. Made by ``load_editor``.

    Threads may share one: decoding goes side by side, editing in turns.
    """

    def __init__(self, engine: Engine, decode_spec: DecodeSpec) -> None:
        self._engine, self._decode = engine, decode_spec
        self._in_turns = threading.Lock()

    @property
    def name(self) -> str:
        """The editor's, as a job has it."""
        return self._engine.spec.editor

    @property
    def image_size(self) -> int:
        """Height and width of what its network sees; images may have any size."""
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
            image: array [H, W, 3] uint8, Pillow image, path, address or a file's bytes.
            mask: [H, W] bool, or an image that is white where it is edited; without mask and bbox all of it is.
            prompt: what to paint; empty fills the region in from its surroundings, where the editor can do that.
            bbox: x0, y0, x1, y1 in pixels, in place of a mask.
            exemplar: an image of what to paint, for editors that read one.
            source_prompt: what the image shows, for metrics and editors that read it.
            checkpoint: a role of the weights, or a file's address: which tuned network.
            landmarks: x0, y0, x1, y1, ... of the face that ``fit="face"`` is about.
            seed: 0 or more; the same one gives the same pixels.
            candidates: tries, ranked by the editor; all are kept.
            key: takes part in the noise, as a row's key does in a run.
            **params: the editor's params for this image alone.

        Raises:
            LoadError: the image, the mask or what else the editor reads cannot be used.
            EditError: the editor could not do it.
            ConfigError: a param that there is not.
        """
        if candidates < 1:
            raise ConfigError(f"candidates is {candidates}; give 1 or more")
        plugins.check_params(self._engine.params_type, {**self._engine.spec.params, **params}, "params")
        request = {
            "key": key,
            "fingerprint": "",
            "image": image_cell(image),
            "mask": None if mask is None else mask_cell(mask),
            "bbox": bbox,
            "prompt": prompt,
            "exemplar": None if exemplar is None else image_cell(exemplar, "exemplar"),
            "source_prompt": source_prompt,
            "checkpoint": checkpoint,
            "landmarks": landmarks,
            "seed": seed,
            "params": params,
        }
        sample = decode(request, self._decode)
        with self._in_turns:
            (answer,) = self._engine.edit([sample], candidates=candidates)
        if answer.failure is not None:
            raise answer.failure.error()
        return _edited(answer)


def load_editor(
    name: str,
    weights: Weights | None = None,
    *,
    metrics: Sequence[str] = (),
    fit: Literal["auto", "crop", "resize", "face"] = "auto",
    mask: Mapping[str, Any] | None = None,
    batch_size: int = 8,
    device: str | None = None,
    **params: Any,
) -> LoadedEditor:
    """Load an editor and its networks into this process.

    Args:
        name: an installed one (``retouch plugins``), or ``package.module:Class``.
        weights: as in a job: an address, or by role an address or several; None for an editor that needs none.
        metrics: scores of each candidate, by name, on the same weights.
        fit: what the network sees of a larger image, as in a job.
        mask: how mask images are read, as the job's ``mask``: ``{"invert": True}``.
        batch_size: candidates in one pass. Fewer make a single image quicker, and may round its pixels another way.
        device: ``cuda``, ``cuda:1``, ``cpu``; the GPU where there is one if None.
        **params: the editor's, as in a job's ``editor.params``.

    Raises:
        PluginError: no such editor or metric.
        ConfigError: a param, or another argument, that cannot be.
        WeightsError: weights that cannot be had or loaded.
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
        "ray": {"batch_size": batch_size},
    }
    job = _edit_job(parse_job(data, "load_editor"))
    checked = plugins.check_params(editor.Params, params, "params")
    decode_spec = DecodeSpec(
        inputs=frozenset(editor.inputs),
        mask=job.mask,
        needs=getattr(checked, "needs", frozenset()),
        params=params,
        params_type=editor.Params,
    )
    spec = replace(engine_spec(job), output=None, seconds=None)  # nobody else could do its rows again
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
    """Run an edit job to its end, as ``retouch run`` does; called again, it goes on where it stopped.

    Args:
        job: a job file's address, its content as a mapping, or a job.
        overrides: fields by their path: ``{"editor.params.timesteps": 20, "output": "runs/try"}``.
        executor: ``ray``, or ``local``: this process, without Ray.
        address: of a running Ray cluster; else one is started here.
        limit: answer at most the manifest's first ``limit`` rows.
        retry_failed: rows answered with a failure are done again.
        date: what ``{date}`` in an address stands for.
        progress: how it is shown: ``auto``, ``plain``, ``json`` or ``quiet``.

    Returns:
        How it ended: ``output``, ``statuses``, ``exit_code`` (1 where more rows failed than the job allows), ...

    Raises:
        StopRun: the job, its manifest, weights or plug-ins are wrong; nothing was started.
        OverBudget: more rows failed than the job allows, before all were done.
        Interrupted: stopped on the way.
    """
    return answer_rows(
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
    raise ConfigError(f"the job is of kind {job.kind}; run_job does edit jobs, retouch run and evaluate the others")


def read_results(output: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A run's answers, each key once, sorted by key; also while it goes on. ``.to_pandas()`` makes a frame.

    Raises:
        OutputError: there are none.
        StorageError: a file cannot be read.
    """
    if not results.files(output):
        raise OutputError(f"{output} holds no results; a run puts them into {output}/{results.FOLDER}")
    return results.read(output, columns)


def results_dataset(output: str) -> pads.Dataset:
    """A finished run's results table as an Arrow dataset, read as far as it is asked for: for millions of rows.

    While a run goes on, a row that was done again stands there twice; ``read_results`` knows which answer counts.

    Raises:
        OutputError: there are none.
    """
    files = results.files(output)
    if not files:
        raise OutputError(f"{output} holds no results; a run puts them into {output}/{results.FOLDER}")
    filesystem = storage.filesystem(output)[0]
    return pads.dataset([storage.filesystem(file)[1] for file in files], format="parquet", filesystem=filesystem)


def _edited(answer: Outcome) -> Edited:
    sample = answer.sample
    assert sample.source is not None
    assert sample.mask is not None
    return Edited(
        source=sample.source,
        mask=sample.mask,
        candidates=[_candidate(answer, kept) for kept in answer.kept],
        prompt=sample.prompt,
        exemplar=sample.exemplar,
    )


def _candidate(answer: Outcome, kept: KeptCandidate) -> Candidate:
    made = composite(answer, kept)
    return Candidate(made.pixels, kept.candidate, kept.seed, dict(kept.scores), made.alpha)
