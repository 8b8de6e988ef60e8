"""The tiny pipelines run, depend on their seed alone, and their folders load as published ones do."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from tests.helpers import tiny_pipelines


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd_inpaint_9ch", "sdxl_inpaint_4ch", "flux_fill"])
def test_a_folder_gives_the_pixels_of_the_pipeline_that_wrote_it(kind: str, tmp_path: Path) -> None:
    pipe = tiny_pipelines.build(kind)
    pipe.save_pretrained(tmp_path)
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    rows = tiny_pipelines.inputs(2)
    images = tiny_pipelines.call(pipe, kind, *rows)
    assert images.shape == (2, tiny_pipelines.SIZE, tiny_pipelines.SIZE, 3)
    np.testing.assert_array_equal(tiny_pipelines.call(loaded, kind, *rows), images)


def test_weights_are_those_of_the_seed_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (tiny_pipelines.build("sd_text_to_image", seed).unet.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])
    assert torch.equal(torch.get_rng_state(), before)
