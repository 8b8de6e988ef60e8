"""Whether edits of the drawn shapes show what was asked for, by the embedded judge network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from retouch.errors import WeightsError
from retouch.models.embedded.scenes import NONE, parse_prompt
from retouch.schema import Batch, Pixels

if TYPE_CHECKING:
    from retouch.models.embedded.judge import JudgeNet


class ShapesJudge:
    """``judge_agrees``: whether the mask holds the shape and the colour that the prompt asks for."""

    columns: ClassVar[Mapping[str, str]] = {"judge_shape": "string", "judge_colour": "string", "judge_agrees": "bool"}

    def __init__(self, net: JudgeNet) -> None:
        self._net = net

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str, **options: Any) -> Self:
        """Load the role ``judge``, a ``judge.safetensors`` with ``judge.json`` next to it.

        Raises:
            WeightsError: a file is missing, broken or of another architecture, or an option was given.
        """
        if options:
            raise WeightsError(f"shapes judge takes no options, got {', '.join(sorted(options))}")
        if "judge" not in weights:
            raise WeightsError("shapes_judge needs weights for judge; embedded:shapes has them")
        from retouch.models.embedded.judge import load_judge

        return cls(load_judge(Path(weights["judge"]).parent).to(device))

    def score_batch(self, batch: Batch, edited: Pixels) -> list[dict[str, Any]]:
        """Return shape and colour per edited image [B, H, W, 3]; ``judge_agrees`` is None if the prompt names none."""
        verdicts = self._net.judge(edited, batch.mask)
        return [_row(verdict, parse_prompt(prompt)) for verdict, prompt in zip(verdicts, batch.prompt, strict=True)]


def _row(verdict: tuple[str, str], wanted: tuple[str, str]) -> dict[str, Any]:
    agrees = None if NONE in wanted else verdict == wanted
    return {"judge_shape": verdict[0], "judge_colour": verdict[1], "judge_agrees": agrees}
