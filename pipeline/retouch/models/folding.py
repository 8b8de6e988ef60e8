"""Batch norms of a frozen network folded into the convolutions before them. Knows no network by name."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(network: nn.Module) -> None:
    """Fold, in place, every batch norm whose place among its module's children is right behind a convolution.

    The network must call them in that order, as CLIP's ResNets do. Equal up to rounding; what it saves is a pass over
    the activations forward and, more, backward, where torch computes the weights' sums even if nobody asks.

    Args:
        network: in eval mode, weights frozen.
    """
    for module in list(network.modules()):
        for (name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
