"""What plug-in authors are given: an editor that keeps the contract passes, one that breaks it is told how."""

import pytest
from retouch.editors.blended_diffusion.editor import BlendedDiffusion
from retouch.errors import PluginError
from retouch.models import weights
from retouch.testing import check_editor

from tests.helpers.painters import Neighbourly, Painter


def test_our_own_editor_passes_on_the_weights_that_ship() -> None:
    params = {"timesteps": 3, "skip_timesteps": 1, "aug_num": 2, "clip_guidance_lambda": 100}
    check_editor(BlendedDiffusion, params, weights.resolve("embedded:shapes").files)


def test_a_simple_editor_passes() -> None:
    check_editor(Painter, {}, {})


def test_an_editor_whose_entries_see_each_other_is_refused() -> None:
    with pytest.raises(PluginError, match=r"an entry changed with its (place|mates)"):
        check_editor(Neighbourly, {}, {})


def test_an_editor_without_the_class_attributes_is_refused() -> None:
    class Bare:
        pass

    with pytest.raises(PluginError, match="Bare has no version, inputs, Params"):
        check_editor(Bare, {}, {})
