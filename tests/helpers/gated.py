"""An editor that is slow until a file exists: ``tests.helpers.gated:GatedPainter``."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from retouch.schema import Batch, EditResult

from tests.helpers.painters import Painter, PainterParams


@dataclass(frozen=True)
class GatedParams(PainterParams):
    gate: str = ""  # a file


class GatedPainter(Painter):
    """Takes two seconds a batch while there is no file at ``gate``."""

    Params: ClassVar[Any] = GatedParams
    params: GatedParams

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        if not Path(self.params.gate).exists():
            time.sleep(2)
        return super().edit_batch(batch)
