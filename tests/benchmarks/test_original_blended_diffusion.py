"""The authors' own loop on our networks; the clone comes from outside and its tests run where one is named."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from retouch.cli.bench.subjects import subject
from retouch.errors import ConfigError

from tests.benchmarks.original_blended_diffusion import PACKAGES, Original

CLONE = os.environ.get("RETOUCH_BLENDED_DIFFUSION")


def test_a_folder_that_is_no_clone_is_refused_by_name(tmp_path: Path) -> None:
    one = subject("blended_diffusion", "embedded", steps=2)
    assert one.plain is not None
    with pytest.raises(ConfigError, match=r"not a clone of omriav/blended-diffusion.*image_editor\.py"):
        Original(tmp_path, one.editor, *one.plain)


@pytest.mark.skipif(CLONE is None, reason="RETOUCH_BLENDED_DIFFUSION=/clone/of/omriav/blended-diffusion would run it")
def test_the_originals_loop_asks_our_network_twice_a_step() -> None:
    one = subject("blended_diffusion", "embedded", steps=5)
    seen: list[tuple[float, bool]] = []
    assert one.plain is not None
    for unet in (one.parts["unet"][0], one.plain[0]):
        unet.register_forward_pre_hook(lambda _, inputs: seen.append((float(inputs[1][0]), torch.is_grad_enabled())))
    original = Original(Path(str(CLONE)), one.editor, *one.plain)
    one.editor.edit_batch(one.batch(1))
    ours = [t for t, _ in seen]
    seen.clear()
    original.edit(one.batch(1))
    assert [t for t, with_gradient in seen if not with_gradient] == ours
    assert sum(with_gradient for _, with_gradient in seen) == 5
    assert not any(name.partition(".")[0] in PACKAGES for name in sys.modules)
