"""The fast tests import no slow library, which is found out without importing anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.conftest import SLOW_TO_IMPORT
from tests.helpers.imports import imported_packages

COLLECT = """
import sys
import pytest
from tests.conftest import SLOW_TO_IMPORT
code = pytest.main(["--fast", "--collect-only", "-q", "-p", "no:cacheprovider"])
print("exit", int(code), *sorted(SLOW_TO_IMPORT & set(sys.modules)))
"""


def test_imports_of_a_file_are_followed_through_this_repository(tmp_path: Path) -> None:
    file = tmp_path / "test_x.py"
    file.write_text(
        "import json\nfrom typing import TYPE_CHECKING\nfrom tests.helpers.tiny_clip import random_clip\n"
        "if TYPE_CHECKING:\n    import ray\ndef later() -> None:\n    import playwright\n"
    )
    assert {"json", "torch", "open_clip"} <= imported_packages(file)
    assert not {"ray", "playwright"} & imported_packages(file)


@pytest.mark.slow
def test_collecting_the_fast_tests_imports_no_slow_library() -> None:
    command = [sys.executable, "-c", COLLECT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "exit 0", done.stdout[-2000:]
    assert "open_clip" in SLOW_TO_IMPORT
