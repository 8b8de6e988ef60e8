"""Four channels to nine: nothing changes until something is learned."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from retouch.errors import WeightsError
from retouch.training.exemplar.widen import widened, widened_config

from tests.helpers.tiny_paint_by_example import TINY


def test_the_first_pass_of_a_widened_unet_is_that_of_the_text_to_image_unet() -> None:
    torch.manual_seed(0)
    config = {**TINY.unet, "in_channels": 4}
    prior = UNet2DConditionModel.from_config(config).eval()
    wide = UNet2DConditionModel.from_config(widened_config(config)).eval()
    wide.load_state_dict(widened(prior.state_dict()))
    x, rest = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 8, 8)
    context, t = torch.randn(2, 3, TINY.context_dim), torch.tensor([3, 900])
    with torch.no_grad():
        before = prior(x, t, context, return_dict=False)[0]
        after = wide(torch.cat([x, rest], dim=1), t, context, return_dict=False)[0]
    # Sums over more channels may be taken in another order, though the added ones are zeros.
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()
    assert before.abs().max() > 0


def test_a_unet_of_nine_channels_stays_as_it_is() -> None:
    state = {"conv_in.weight": torch.randn(8, 9, 3, 3)}
    assert torch.equal(widened(state)["conv_in.weight"], state["conv_in.weight"])


@pytest.mark.parametrize(
    ("state", "said"), [({}, "no conv_in"), ({"conv_in.weight": torch.zeros(8, 12, 3, 3)}, "takes 12 channels")]
)
def test_weights_of_another_make_are_refused(state: dict[str, torch.Tensor], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        widened(state)
