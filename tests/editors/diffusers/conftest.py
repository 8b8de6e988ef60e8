"""Tiny pipelines saved as folders, each once per session, and the editor loaded on one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from retouch import plugins
from retouch.schema import Batch

SIZE = 64  # of tests.helpers.tiny_pipelines, which imports diffusers and is thus imported in functions
# Params in place of the arguments that ``tiny_pipelines.CALL`` gives, and what the editor gives itself.
_PARAMS = {"max_sequence_length": "max_sequence_length", "controlnet_conditioning_scale": "control_scale"}
_OWN = {"_auto_resize", "max_area"}


def params_of(kind: str, **more: Any) -> dict[str, Any]:
    """Return params for quick edits with a tiny pipeline of this kind."""
    from tests.helpers import tiny_pipelines

    call = {name: value for name, value in tiny_pipelines.CALL.get(kind, {}).items() if name not in _OWN}
    params = {_PARAMS[name]: call.pop(name) for name in list(call) if name in _PARAMS}
    return {"steps": 4, "size": SIZE, "call": call, **params, **more}


def example(count: int = 4, **more: Any) -> Batch:
    """Return a batch of unlike images, masks and prompts."""
    from tests.helpers import tiny_pipelines

    images, masks, prompts, seeds = tiny_pipelines.inputs(count)
    return Batch(
        image=np.stack([np.asarray(image) for image in images]),
        mask=np.stack([np.asarray(mask) > 0 for mask in masks]),
        **{"prompt": prompts, "seed": seeds, **more},
    )


def pixels(results: Any) -> Any:
    """Return the images of results as int [B,H,W,3]."""
    return np.stack([result.image for result in results]).astype(int)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that gives the folder of a tiny pipeline by kind (and seed)."""
    made: dict[tuple[str, int], Path] = {}

    def find(kind: str, seed: int = 0) -> Path:
        from tests.helpers import tiny_pipelines

        if (kind, seed) not in made:
            made[kind, seed] = tmp_path_factory.mktemp(kind) / "folder"
            tiny_pipelines.save(kind, made[kind, seed], seed)
        return made[kind, seed]

    return find


@pytest.fixture
def editor(folder: Callable[..., Path]) -> Callable[..., Any]:
    """Return a function that loads the editor on a tiny pipeline: kind, further weights, further params."""

    def load(kind: str, weights: dict[str, str] | None = None, **params: Any) -> Any:
        found: Any = plugins.find("editors", "diffusers")
        checked = plugins.check_params(found.Params, params_of(kind, **params), "params")
        return found.load(checked, {"model_index": str(folder(kind) / "model_index.json"), **(weights or {})}, "cpu")

    return load
