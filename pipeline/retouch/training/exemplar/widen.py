"""A text-to-image UNet made an inpainting one: more input channels, which at first say nothing. Knows no file.

Source: Yang et al. 2022, section 3.3: the image prior of Stable Diffusion is kept, so the first pass is unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from retouch.errors import WeightsError

CONV_IN: Final = "conv_in.weight"
CHANNELS: Final = 9  # 4 of x_t, 4 of the masked image's latent, 1 of the mask


def widened(state: Mapping[str, Tensor], channels: int = CHANNELS) -> dict[str, Tensor]:
    """A UNet's state dict (names of ``UNet2DConditionModel``) that takes ``channels``: zeros behind what there is.

    Raises:
        WeightsError: it takes more already, or has no first convolution.
    """
    if CONV_IN not in state:
        raise WeightsError(f"the weights to start from hold no {CONV_IN}: they are no UNet's")
    weight = state[CONV_IN]
    missing = channels - weight.shape[1]
    if missing < 0:
        raise WeightsError(f"the UNet to start from takes {weight.shape[1]} channels; it must be {channels} at most")
    zeros = torch.zeros(weight.shape[0], missing, *weight.shape[2:], dtype=weight.dtype)
    return {**state, CONV_IN: torch.cat([weight, zeros], dim=1)}


def widened_config(config: Mapping[str, Any], channels: int = CHANNELS) -> dict[str, Any]:
    """The keywords of ``UNet2DConditionModel`` for it."""
    return {**config, "in_channels": channels}
