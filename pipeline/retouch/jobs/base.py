"""Base class and field types that all kinds of jobs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

AtLeastOne = Annotated[int, Field(ge=1)]
JobWeights = str | dict[str, str | tuple[str, ...]]
Weights = str | Mapping[str, str | Sequence[str]]  # an address; or by role one address or several, tried in order


class Model(BaseModel):
    """A frozen model that rejects unknown keys; a docstring below a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ImagesSpec(Model):
    """Bounds of the files that are decoded."""

    max_pixels: int = Field(default=89_478_485, ge=1)
    """Width x height of the largest image, mask, exemplar or control image; larger files fail their row. Decoding and
    writing a row takes up to 25 bytes of memory per pixel, in up to 8 rows at a time per stage."""


class MaskSpec(Model):
    """How a mask image is read; white (True) is edited."""

    source: Literal["auto", "luma", "alpha"] = "auto"
    """Plane of the image that is read; auto: alpha where it varies, else luma."""
    invert: bool = False
    """Edit what is black instead."""
    threshold: int = Field(default=128, ge=1, le=255)
    """Smallest value that is edited. The default is half: "any non-zero pixel", as the original code has it, grows a
    JPEG q75 mask by 4.6 %."""
    grow: int = Field(default=0, ge=-1024, le=1024)
    """Pixels of the source by which a mask or box is widened before anything else; negative: narrowed. Pixels outside
    the grown mask stay as they are; background_changed_px counts these."""
    feather: int = Field(default=0, ge=0, le=1024)
    """Pixels of the source over which the edit fades in, from the (grown) mask's edge inwards; deeper inside it is as
    the model made it. Grow a mask by as much that needs all of the edit."""
    context: float = Field(default=0.5, ge=0, le=16)
    """Share of the mask's longer side that the network sees around it on every side, where it sees a crop."""

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide results. Those that are younger than outputs that resume are in it once set."""
        younger = {name: type(self).model_fields[name].default for name in ("grow", "feather", "context")}
        dumped = self.model_dump()
        return {name: value for name, value in dumped.items() if name not in younger or value != younger[name]}
