"""A decoded row: its request and pixels, or the failure that it ended with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from retouch import errors
from retouch.errors import DeadlineExceeded, EditError, LoadError, RetouchError, RowError
from retouch.imaging import colour
from retouch.imaging.regions import Region, Size, resize, whole
from retouch.redaction import redacted
from retouch.schema import FAILED_TO_EDIT, FAILED_TO_LOAD, Mask, Pixels

MESSAGE_LIMIT: Final = 500  # characters of an error that a results row keeps


@dataclass(frozen=True)
class Failure:
    """Why a row has no image: the ``error_*`` columns of its result row."""

    status: str
    type: str
    message: str
    stage: str

    @classmethod
    def of(cls, error: BaseException, stage: str) -> Failure:
        """Return the failure for an exception: our errors bring their status, others take the stage's."""
        fallback = FAILED_TO_LOAD if stage == "decode" else FAILED_TO_EDIT
        # A timeout belongs to the stage in which it happened.
        status = error.status if isinstance(error, RowError) and not isinstance(error, DeadlineExceeded) else fallback
        # Errors of storage and decoders are named by what they mean for the row.
        kind = type(error).__name__ if not isinstance(error, MemoryError) else "OutOfMemory"
        message = redacted(" ".join(str(error).split())) or kind
        return cls(status, kind, message[:MESSAGE_LIMIT], stage)

    def error(self) -> RowError:
        """Return an exception for this failure, for callers without a results table."""
        known = getattr(errors, self.type, None)
        kind = LoadError if self.status == FAILED_TO_LOAD else EditError
        if isinstance(known, type) and issubclass(known, RowError):
            return known(self.message)
        return kind(f"{self.type}: {self.message}")


@dataclass(frozen=True)
class Sample:
    """A manifest row with its pixels, or with the reason why it has none."""

    key: str
    fingerprint: str
    prompt: str = ""
    source_prompt: str | None = None
    negative_prompt: str | None = None
    checkpoint: str | None = None
    seed: int | None = None  # the row's own seed; the run's where None
    params: Mapping[str, Any] = field(default_factory=dict)  # this row's overrides
    source: Pixels | None = None  # [H, W, 3] as stored, at native size; on a canvas reflected in its new borders
    alpha: Any = None  # [H, W] uint8 where the image file has an alpha channel
    mask: Mask | None = None  # [H, W] at native size; all True where the row has neither mask nor bbox
    profile: bytes | None = None  # ICC profile of ``source``; None: sRGB
    converted_from: str | None = None  # colours of the file where ``source`` are not its values
    exemplar: Pixels | None = None  # [h, w, 3] in sRGB, at its own size
    control: Pixels | None = None  # [H, W, 3] in sRGB, as large as the source
    frame: Region | None = None  # of the image on its canvas; the mask is the rest. None: no canvas
    landmarks: Sequence[float] | None = None  # x0, y0, x1, y1, ... of a face, native pixels, as the manifest has them
    failure: Failure | None = None

    def as_seen(self) -> Pixels:
        """Return the source as networks see it: [H, W, 3] in sRGB, over white where it is transparent."""
        assert self.source is not None
        return colour.over(colour.to_srgb(self.source, self.profile), self.alpha)


def scaled_to(sample: Sample, size: Size) -> Sample:
    """Return the sample of a row that is edited whole with source, alpha and mask at a size (H, W); others unchanged.

    For comparisons with edits that were written at the network's size.
    """
    if sample.source is None or sample.mask is None or not sample.mask.all():
        return sample
    alpha = None if sample.alpha is None else resize(sample.alpha, *size)
    return replace(sample, source=resize(sample.source, *size), alpha=alpha, mask=whole(size))


def failed_to_load(key: str, fingerprint: str, error: BaseException) -> Sample:
    """Return a sample without pixels, with the reason."""
    known = error if isinstance(error, RetouchError) else LoadError(f"{type(error).__name__}: {error}")
    return Sample(key, fingerprint, failure=Failure.of(known, "decode"))
