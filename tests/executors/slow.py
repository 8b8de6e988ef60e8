"""An editor slow enough to be killed in the middle of a run. Reached as ``tests.executors.slow:SlowPainter``."""

import time

from pipeline.schema import Batch, EditResult
from tests.painters import Painter


class SlowPainter(Painter):
    """Takes a quarter of a second a batch."""

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        time.sleep(0.25)
        return super().edit_batch(batch)
