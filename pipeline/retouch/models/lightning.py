"""Open Lightning checkpoints with torch's restricted unpickler, without running any code in them.

Published ``.ckpt`` files also hold callbacks' states and hyperparameters, whose classes are not installed. Within
:func:`lightning_globals` the unpickler replaces these by empty objects; every other name is refused as before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self, cast

import torch

_LIGHTNING: Final = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric")

NAMES: Final = (
    *(f"{package}.callbacks.model_checkpoint.ModelCheckpoint" for package in _LIGHTNING),
    *(f"{package}.callbacks.lr_monitor.LearningRateMonitor" for package in _LIGHTNING),
    *(f"{package}.callbacks.early_stopping.EarlyStopping" for package in _LIGHTNING),
    *(f"{main}.{name}" for main in ("main", "__main__") for name in ("CUDACallback", "ImageLogger", "SetupCallback")),
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "typing.Any",
    "builtins.dict",
    "builtins.int",
    "builtins.list",
    "pathlib.PosixPath",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
MAPPINGS: Final = (  # filled by the unpickler after they are made, so replaced by a mapping
    *(f"{package}.utilities.parsing.AttributeDict" for package in _LIGHTNING),
    *(f"{package}.utilities.data.AttributeDict" for package in _LIGHTNING),
)


class _Inert:
    """An empty object in place of one that is not needed; takes any arguments."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


def _mapping(*_args: Any) -> OrderedDict[Any, Any]:
    return OrderedDict()


@contextmanager
def lightning_globals() -> Iterator[None]:
    """Within the context, let torch's weights-only load skip Lightning's own objects."""
    inert: list[tuple[Any, str]] = [(_Inert, name) for name in NAMES]
    inert += [(OrderedDict, name) for name in MAPPINGS]
    inert.append((_mapping, "collections.defaultdict"))
    with torch.serialization.safe_globals(cast(Any, inert)):
        yield
