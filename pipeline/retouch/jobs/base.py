"""Base class and field types that all kinds of jobs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

AtLeastOne = Annotated[int, Field(ge=1)]
JobWeights = str | dict[str, str | tuple[str, ...]]
Weights = str | Mapping[str, str | Sequence[str]]  # an address; or by role one address or several, tried in order


class Model(BaseModel):
    """A frozen model that rejects unknown keys; a docstring below a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class MaskSpec(Model):
    """How a mask image is read; white (True) is edited."""

    source: Literal["auto", "luma", "alpha"] = "auto"
    """Plane of the image that is read; auto: alpha where it varies, else luma."""
    invert: bool = False
    """Edit what is black instead."""
    threshold: int = Field(default=128, ge=1, le=255)
    """Smallest value that is edited. The default is half: "any non-zero pixel", as the original code has it, grows a
    JPEG q75 mask by 4.6 %."""
