"""No file next to a job replaces a library or a module of ours, on the driver or on Ray's workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.shadowing import CAUGHT, greys, write_folder

CONSOLE_SCRIPT = (str(Path(sys.executable).parent / "retouch"),)
MODULE = (sys.executable, "-P", "-m", "retouch")


@pytest.mark.ray(own=True)
@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(CONSOLE_SCRIPT, id="retouch"),
        pytest.param(
            MODULE,
            id="python -P -m retouch",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_run_imports_its_plug_in_and_none_of_the_files_that_are_called_like_libraries(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    folder, output = tmp_path / "work", str(tmp_path / "out")
    write_folder(folder, output)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    done = subprocess.run(
        [*command, "run", "job.yaml"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert greys(folder, output) == pytest.approx([200, 50], abs=10)  # resized, so not exact
    assert not (folder / CAUGHT).exists(), (folder / CAUGHT).read_text()
