"""Editors that wait: ``tests.helpers.slow:SlowPainter``."""

import os
import time
from pathlib import Path

from retouch.errors import EditError
from retouch.schema import Batch, EditResult

from tests.helpers.painters import Painter, PainterParams


class SlowPainter(Painter):
    """Takes a quarter of a second per batch: long enough to be killed in the middle of a run."""

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        time.sleep(0.25)
        return super().edit_batch(batch)


class WaitingPainter(Painter):
    """Edits its first batch at once, later ones when the file that a prompt names exists; fails after a minute."""

    def __init__(self, params: PainterParams) -> None:
        super().__init__(params)
        self.began = False

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        deadline = time.monotonic() + 60
        while self.began and not Path(batch.prompt[0]).exists():
            if time.monotonic() > deadline:
                raise EditError(f"{batch.prompt[0]} did not come")
            time.sleep(0.02)
        self.began = True
        return super().edit_batch(batch)


class MeetingPainter(Painter):
    """Edits when two workers have left a file in the folder that a prompt names; fails after a minute."""

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        deadline, folder = time.monotonic() + 60, Path(batch.prompt[0])
        (folder / str(os.getpid())).touch()
        while len(list(folder.iterdir())) < 2:
            if time.monotonic() > deadline:
                raise EditError("no other worker came")
            time.sleep(0.02)
        return super().edit_batch(batch)
