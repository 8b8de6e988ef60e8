"""Names to classes by entry point, ours included, and the contracts that plug-ins keep.

Imports a plug-in only when it is asked for; knows none of them.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Literal, Protocol, Self, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from retouch import plugin_path, validation
from retouch.errors import ConfigError, EditError, PluginError
from retouch.schema import Batch, EditResult, Pixels

Kind = Literal["editors", "metrics", "set_metrics", "sinks"]
KINDS: tuple[Kind, ...] = ("editors", "metrics", "set_metrics", "sinks")

State = Mapping[str, npt.NDArray[Any]]  # what a set metric keeps of some images: arrays by name


@runtime_checkable
class Editor(Protocol):
    """Edits batches of uint8 images; owns its networks and the device's memory."""

    version: ClassVar[str]  # bump it when the pixels change
    inputs: ClassVar[frozenset[str]]  # which of mask, exemplar, prompt, source_prompt, checkpoint it reads
    Params: ClassVar[type]  # a frozen dataclass; its fields are the job's ``editor.params``
    rank_by: ClassVar[str | None]  # EditResult.metrics entry that ranks candidates, lower is better
    columns: ClassVar[Mapping[str, str]]  # EditResult.metrics entries that become result columns: name to Arrow type
    image_size: int  # H = W of the batches that it takes, known after load

    @classmethod
    def load(cls, params: Any, weights: Mapping[str, str], device: str) -> Self:
        """Read the networks; ``weights`` maps a role (``unet``, ...) to a local file. Raises WeightsError."""

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        """One result an entry, in order; deterministic in each entry and its seed.

        An editor may also have ``prepare_exemplar(exemplar [h,w,3] uint8, params) -> [H,W,3] uint8``, which then gets
        exemplars at their native size (else they are resized to ``image_size``), an attribute ``memory`` (of
        ``editors.diffusionclip.inversion_cache``) for what is dear to compute and decides no pixel, and
        ``check_batch(batch)``, which raises what ``edit_batch`` would as far as that takes no pass of a network:
        ``retouch check`` asks it on the CPU. Its Params may have a property ``needs``: those of ``inputs`` without
        which a row cannot be edited.
        """


@runtime_checkable
class Metric(Protocol):
    """Scores edited batches while they are still in memory."""

    columns: ClassVar[Mapping[str, str]]  # result columns that it fills: name to Arrow type ("float64", "bool", ...)

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str, **options: Any) -> Self:
        """Read the networks; ``weights`` maps a role (``clip``, ...) to a local file. Raises WeightsError."""

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """One mapping of ``columns`` an entry. ``edited`` [B,H,W,3] is the network's image before compositing."""


@runtime_checkable
class SetMetric(Protocol):
    """Scores a set of images, shard by shard: features of one image, a state of many, one number of two states.

    The state of a whole is ``merge`` of its shards' states, however it was cut. A state holds at least one image.
    """

    roles: ClassVar[frozenset[str]]  # weights that decide its numbers
    compares: ClassVar[bool]  # whether ``reduce`` needs the state of a reference set

    @property
    def id(self) -> Mapping[str, str]:
        """What decides the numbers beside the weights' content: model, preprocessing. Equal ids compare, others not."""

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str, **options: Any) -> Self:
        """Read the networks; ``weights`` maps a role (``clip``, ...) to a local file. Raises WeightsError."""

    def features(self, image: Pixels) -> npt.NDArray[np.float32]:
        """[D] of one image [H,W,3] uint8."""

    def state(self, features: npt.NDArray[np.float32]) -> State:
        """The state of N images from their features [N,D]."""

    def merge(self, states: Sequence[State]) -> State:
        """The state of all images of one or more states."""

    def fit(self, state: State) -> State:
        """Of the merged state of a reference set what ``reduce`` needs: it is kept, and may be given to other jobs."""

    def reduce(self, state: State, reference: State | None) -> Mapping[str, float]:
        """Numbers by name of a merged state, and of what ``fit`` made of the reference's. Raises ConfigError."""


@functools.cache  # reads the records of all that is installed, and every block asks for its sink
def available(kind: Kind) -> dict[str, EntryPoint]:
    """Installed plug-ins of a kind by name."""
    return {point.name: point for point in entry_points(group=f"retouch.{kind}")}


def find(kind: Kind, name: str) -> type:
    """The class behind an installed name, or behind ``package.module:Class`` without installing anything.

    Raises:
        PluginError: no plug-in has this name, or importing it failed.
    """
    found = available(kind)
    if ":" in name:
        plugin_path.extend(os.getcwd())
        point: EntryPoint | None = EntryPoint(name, name, f"retouch.{kind}")
    else:
        point = found.get(name)
    what = kind[:-1].replace("_", " ")
    if point is None:
        names = ", ".join(sorted(found)) or "none"
        near = validation.nearest(name, found)
        raise PluginError(f"no {what} named {name!r}{near}; installed: {names}, or give package.module:Class")
    try:
        return cast(type, point.load())
    except (ImportError, AttributeError) as error:
        raise PluginError(f"{what} {name!r} does not import ({point.value}): {error}") from error


def column_types(columns: Mapping[str, str]) -> dict[str, pa.DataType]:
    """Arrow types of a plug-in's ``columns``."""
    return {name: pa.type_for_alias(alias) for name, alias in columns.items()}


def check_edited(image: Any, shape: tuple[int, ...], editor: str) -> None:
    """Raise EditError where an editor's image is not uint8 of the batch's [H, W, 3]."""
    if getattr(image, "dtype", None) != np.uint8 or image.shape != shape:
        got = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        raise EditError(f"editor {editor} gave an image of {got.strip()}; expected uint8 {shape}")


@functools.cache  # building one takes longer than many a row
def _adapter(params_type: type) -> TypeAdapter[Any]:
    return TypeAdapter(params_type)


def check_params(params_type: type, values: Mapping[str, Any], whose: str) -> Any:
    """``values`` as the editor's frozen Params dataclass, types checked.

    Args:
        params_type: the dataclass.
        values: its fields by name.
        whose: where they stand, ``editor.params``; begins the line of each error.

    Raises:
        ConfigError: an unknown name or a value of the wrong type.
    """
    known = [f.name for f in dataclasses.fields(params_type)]
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError("; ".join(validation.unknown(f"{whose}.{name}", known) for name in unknown))
    adapter = _adapter(params_type)
    try:
        return adapter.validate_python(dict(values))
    except ValidationError as error:
        raise ConfigError(validation.in_one_line(error, values, adapter.json_schema(), whose)) from None
