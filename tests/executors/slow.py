"""Editors that take their time. Reached as ``tests.executors.slow:SlowPainter``."""

import time
from pathlib import Path

from pipeline.errors import EditError
from pipeline.schema import Batch, EditResult
from tests.painters import Painter


class SlowPainter(Painter):
    """Takes a quarter of a second a batch: long enough to be killed in the middle of a run."""

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        time.sleep(0.25)
        return super().edit_batch(batch)


class WaitingPainter(Painter):
    """Paints a row whose prompt is ``wait FILE`` when there is such a file, and fails it after a minute without."""

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        for word, _, file in (prompt.partition(" ") for prompt in batch.prompt):
            deadline = time.monotonic() + 60
            while word == "wait" and not Path(file).exists():
                if time.monotonic() > deadline:
                    raise EditError(f"{file} did not come")
                time.sleep(0.02)
        return super().edit_batch(batch)
