"""The job field ``canvas``: how far an image grows beyond its borders, and what is painted there."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from retouch.jobs.base import AtLeastOne, Model

Side = Literal["left", "right", "top", "bottom"]
SIDES: Final[tuple[Side, ...]] = ("left", "right", "top", "bottom")  # the order in which they are painted
# Pixels, or a share of the image. Strict, so that 25.0 is no way to write 25 pixels.
Margin = Annotated[int, Field(ge=0, strict=True)] | Annotated[float, Field(ge=0, le=1, strict=True)]


class CanvasSpec(Model):
    """How far each image grows beyond its borders. An integer is pixels, a fraction a share of the image."""

    left: Margin = 0
    """Pixels (128), or a share of the image's width (0.25; 1.0 is as wide as the image)."""
    right: Margin = 0
    """As left."""
    top: Margin = 0
    """Pixels, or a share of the image's height."""
    bottom: Margin = 0
    """As top."""
    prompt_left: str | None = None
    """What is painted there; default: the row's prompt."""
    prompt_right: str | None = None
    """As prompt_left."""
    prompt_top: str | None = None
    """As prompt_left."""
    prompt_bottom: str | None = None
    """As prompt_left."""
    steps: AtLeastOne | Literal["auto"] = "auto"
    """Passes per side; each continues what the passes before it painted. auto: as few as let a pass add at most half of
    what the network sees."""

    @model_validator(mode="after")
    def _check_sides(self) -> CanvasSpec:
        if not any(self.margins.values()):
            raise ValueError("all sides are 0, so nothing would be painted; give left, right, top or bottom")
        if unused := [side for side in SIDES if self.prompt(side) is not None and not self.margins[side]]:
            raise ValueError(f"prompt_{unused[0]} is given, but {unused[0]} is 0; give both or none")
        return self

    @property
    def margins(self) -> dict[Side, int | float]:
        """What is added per side: pixels if it is an integer, else a share of the image's width or height."""
        return {side: getattr(self, side) for side in SIDES}

    def prompt(self, side: Side) -> str | None:
        """Return a side's own prompt; None: the row's."""
        found: str | None = getattr(self, f"prompt_{side}")
        return found

    @property
    def needs_prompt(self) -> bool:
        """Whether a side is painted by the row's prompt."""
        return any(margin and self.prompt(side) is None for side, margin in self.margins.items())
