"""The contracts of plug-ins (editors, metrics, sinks), and how a name in a job finds its class by entry point."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Final, Literal, Protocol, Self, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from retouch import plugin_path, validation
from retouch.errors import ConfigError, EditError, PluginError
from retouch.schema import Batch, EditResult, Pixels

# Request columns that an editor may read besides the image.
INPUTS: Final = frozenset({"mask", "exemplar", "control", "prompt", "negative_prompt", "source_prompt", "checkpoint"})

Kind = Literal["editors", "metrics", "set_metrics", "sinks"]
KINDS: tuple[Kind, ...] = ("editors", "metrics", "set_metrics", "sinks")

State = Mapping[str, npt.NDArray[Any]]  # a set metric's aggregate of some images: arrays by name


@runtime_checkable
class Editor(Protocol):
    """Edits batches of uint8 images; owns its networks and their device memory."""

    version: ClassVar[str]  # increase it if the pixels change
    inputs: ClassVar[frozenset[str]]  # the request columns it reads, of INPUTS
    Params: ClassVar[type]  # a frozen dataclass; its fields are the job's ``editor.params``
    rank_by: ClassVar[str | None]  # key of EditResult.metrics that ranks candidates; lower is better
    columns: ClassVar[Mapping[str, str]]  # keys of EditResult.metrics that become result columns: name to Arrow type
    image_size: int  # height and width of its batches, or of the largest if it has ``sizes``; known after load

    @classmethod
    def load(cls, params: Any, weights: Mapping[str, str], device: str) -> Self:
        """Load the networks; ``weights`` maps a role (``unet``, ...) to a local file. Raises WeightsError."""

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        """Return one result per entry, in order; each depends only on its entry and seed.

        Optional members: ``prepare_exemplar(exemplar [h,w,3] uint8, params) -> [H,W,3] uint8`` gets exemplars at their
        native size (without it they are resized to ``image_size``); ``memory`` is a cache for values that are expensive
        to compute and do not change pixels; ``sizes(height, width) -> (H, W)`` is the network's size for a part of an
        image of that size in pixels, for networks that are not square; ``max_batch`` is the largest number of entries
        that a call takes, such as 1 (None: any); ``fills_masks`` is False if it does not paint masked regions anew, as
        a job's ``canvas`` needs; ``check_batch(batch)`` raises the errors of ``edit_batch`` that can be
        found without a forward pass, for ``retouch check`` on the CPU. ``Params`` may have a property ``needs``: the
        ``inputs`` without which a row cannot be edited; and a class attribute ``decides_nothing``: the fields that
        change no pixel, such as a server's address, which are no part of a fingerprint.
        """


@runtime_checkable
class Metric(Protocol):
    """Scores edited batches while they are still in memory."""

    columns: ClassVar[Mapping[str, str]]  # its result columns: name to Arrow type ("float64", "bool", ...)

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str, **options: Any) -> Self:
        """Load the networks; ``weights`` maps a role (``clip``, ...) to a local file. Raises WeightsError."""

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """Return ``columns`` for each entry. ``edited`` [B,H,W,3] is the network's image before compositing."""


@runtime_checkable
class SetMetric(Protocol):
    """Scores a set of images shard by shard: features per image, a state per shard, numbers from merged states.

    ``merge`` gives the same state however the set was split into shards. A state covers at least one image.
    """

    roles: ClassVar[frozenset[str]]  # roles of the weights that its numbers depend on
    compares: ClassVar[bool]  # whether ``reduce`` needs the state of a reference set

    @property
    def id(self) -> Mapping[str, str]:
        """Model and preprocessing, which the numbers depend on besides the weights. Only equal ids are comparable."""

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str, **options: Any) -> Self:
        """Load the networks; ``weights`` maps a role (``clip``, ...) to a local file. Raises WeightsError."""

    def features(self, image: Pixels) -> npt.NDArray[np.float32]:
        """Return the features [D] of one image [H,W,3] uint8."""

    def state(self, features: npt.NDArray[np.float32]) -> State:
        """Return the state of N images from their features [N,D]."""

    def merge(self, states: Sequence[State]) -> State:
        """Return the state of all images of one or more states."""

    def fit(self, state: State) -> State:
        """Return what ``reduce`` needs of a reference set's merged state. It is stored and other jobs may use it."""

    def reduce(self, state: State, reference: State | None) -> Mapping[str, float]:
        """Return numbers by name from a merged state and the fitted reference. Raises ConfigError."""


@functools.cache  # reads the metadata of all installed packages, and every block looks up its sink
def available(kind: Kind) -> dict[str, EntryPoint]:
    """Return the installed plug-ins of a kind by name."""
    return {point.name: point for point in entry_points(group=f"retouch.{kind}")}


def find(kind: Kind, name: str) -> type:
    """Return the class of an installed plug-in's name, or of ``package.module:Class``.

    Raises:
        PluginError: no plug-in of this name is installed, or importing it failed.
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
    """Return the Arrow types of a plug-in's ``columns``."""
    return {name: pa.type_for_alias(alias) for name, alias in columns.items()}


def check_edited(image: Any, shape: tuple[int, ...], editor: str) -> None:
    """Raise EditError if an editor's image is not uint8 of the batch's [H, W, 3]."""
    if getattr(image, "dtype", None) != np.uint8 or image.shape != shape:
        got = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        raise EditError(f"editor {editor} gave an image of {got.strip()}; expected uint8 {shape}")


@functools.cache  # building one takes 2 ms, longer than some rows
def _adapter(params_type: type) -> TypeAdapter[Any]:
    return TypeAdapter(params_type)


def check_params(params_type: type, values: Mapping[str, Any], whose: str) -> Any:
    """Return ``values`` as the editor's frozen Params dataclass, with types checked.

    Args:
        params_type: the dataclass.
        values: fields by name.
        whose: their path in the job, such as ``editor.params``; each error starts with it.

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
