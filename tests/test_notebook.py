"""What a notebook shows, by Jupyter's own kernel: an edit as pictures, a run as a table."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests import ROOT
from tests.outputs.test_edited import Shown

pytestmark = pytest.mark.slow
EDIT = """
from retouch import load_editor, run_job

editor = load_editor("blended_diffusion", "embedded:shapes", timesteps=4, skip_timesteps=1)
editor("manifests/photos/coffee.jpg", bbox=(80, 60, 160, 140), prompt="a red circle", candidates=2)
"""
RUN = """
fields = {{"output": {output!r}, "editor.params.timesteps": 4, "candidates": 1}}
run_job("jobs/quickstart.yaml", fields, executor="local", limit=2, progress="quiet")
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the last line of each cell gave, by media type."""
    cells = [EDIT, RUN.format(output=str(tmp_path_factory.mktemp("notebook") / "run"))]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    return [
        next(found["data"] for found in cell.outputs if found.output_type == "execute_result")
        for cell in notebook.cells
    ]


def test_an_edit_is_shown_as_source_mask_and_candidates(shown: list[dict[str, Any]]) -> None:
    page = Shown(shown[0]["text/html"])
    assert len(page.pictures()) == 4
    assert "a red circle" in page.text
    assert "image/png" in shown[0]


def test_a_run_is_shown_as_a_table_of_its_rows(shown: list[dict[str, Any]]) -> None:
    page = Shown(shown[1]["text/html"])
    assert "quickstart: 2 rows" in page.text
    assert "success" in page.text
