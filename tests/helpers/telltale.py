"""An editor that leaks secrets, for tests of redaction: ``tests.helpers.telltale:Telltale``."""

from __future__ import annotations

import os

from retouch.schema import Batch, EditResult

from tests.helpers.painters import Painter

PLANTED = "plantd"  # in every secret of the tests


class Telltale(Painter):
    """Fails for a prompt that begins with "tell", and quotes a variable and an address."""

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        if any(prompt.startswith("tell") for prompt in batch.prompt):
            raise RuntimeError(f"refused: {os.environ['MINE_PASSWORD']}, at http://me:{PLANTED}@host")
        return super().edit_batch(batch)
