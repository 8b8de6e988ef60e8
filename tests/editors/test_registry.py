"""Jobs are checked by classes that bring no torch, and the editors themselves are of these classes."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from retouch.editors.blended_diffusion import editor
from retouch.editors.blended_latent import editor as blended_latent
from retouch.editors.diffusers import editor as diffusers
from retouch.editors.diffusionclip import editor as diffusionclip
from retouch.editors.endpoint import editor as endpoint
from retouch.editors.paint_by_example import editor as paint_by_example
from retouch.plugins import find

from tests import ROOT

pytestmark = pytest.mark.slow

SHIPPED = {
    "blended_diffusion": editor.BlendedDiffusion,
    "blended_latent": blended_latent.BlendedLatent,
    "diffusers": diffusers.Diffusers,
    "diffusionclip": diffusionclip.DiffusionClip,
    "endpoint": endpoint.Endpoint,
    "paint_by_example": paint_by_example.PaintByExample,
}
PARAMS: dict[str, dict[str, Any]] = {
    "diffusionclip": {"t_0": 301, "n_inv": 4, "n_gen": 3},
    "endpoint": {"url": "http://localhost:8000/v1", "model": "m"},
}
PLAN = """
import sys
from retouch.jobs.config import load_job
from retouch.execution.plan import make_plan
job = load_job("jobs/{job}.yaml", ["output={output}"])
print(make_plan(job).total, "torch" in sys.modules)
"""


@pytest.mark.parametrize("job", ["quickstart", "photos", "exemplar", "inpaint", "translate", "blended_latent"])
def test_a_job_is_planned_without_torch(job: str, tmp_path: Path) -> None:
    script = PLAN.format(job=job, output=tmp_path / "output")
    output = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows, torch = output.split()
    assert int(rows) > 0
    assert torch == "False"


def test_no_metric_brings_torch_or_what_else_takes_a_second_before_it_is_loaded() -> None:
    script = (
        "import sys\nfrom retouch.plugins import available, find\n"
        "names = [(kind, name) for kind in ('metrics', 'set_metrics') for name in available(kind)]\n"
        "for kind, name in names:\n    find(kind, name)\n"
        "print(len(names), *sorted({'torch', 'sklearn', 'skimage', 'pandas'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert int(output.split()[0]) > 10
    assert output.split()[1:] == []


@pytest.mark.parametrize("name", list(SHIPPED))
def test_the_editor_itself_is_of_the_class_that_jobs_are_checked_by(name: str) -> None:
    there, here = find("editors", name), SHIPPED[name]
    assert issubclass(here, there)
    assert not inspect.isabstract(here)
    for fact in ("version", "inputs", "Params", "rank_by", "columns"):
        assert fact not in vars(here), "declared twice"
        assert hasattr(there, fact)


def test_loading_the_declared_class_gives_the_editor() -> None:
    from retouch.models.weights import resolve

    files = resolve("embedded:shapes").files
    for name, here in SHIPPED.items():
        if name in ("blended_latent", "diffusers"):
            continue  # of a diffusers folder, which this family is none
        declared: Any = find("editors", name)
        params = PARAMS.get(name, {})
        roles = {"unet", "clip"} if name == "blended_diffusion" else set(files)
        weights = {role: file for role, file in files.items() if role in roles}
        weights["tuned"] = files["unet"]  # DiffusionCLIP wants one of its own size
        assert type(declared.load(declared.Params(**params), weights, "cpu")) is here
