"""Denoisers out of denoisers: several networks' predictions of one x_t, weighted. Knows no network and no sampler.

The noise predictions are mixed, not the images; what the networks say of the variance is mixed with the same weights.
A network of weight 0 is not called. Source: Kim, Kwon, Ye 2022 (DiffusionCLIP), noise combination.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from retouch.diffusion.mix_weights import check_weights
from retouch.diffusion.sampling import Denoise, Prediction, Timestep


def by_ratio(original: Denoise, tuned: Denoise, ratio: float) -> Denoise:
    """``ratio`` of the tuned network and 1 - ratio of the original: the degree of change.

    0 is the original alone, 1 the tuned network alone; numbers outside 0..1 extrapolate.
    """
    return weighted([original, tuned], [1 - ratio, ratio])


def hybrid(tuned: Sequence[Denoise], weights_at: Mapping[int, Sequence[float]]) -> Denoise:
    """Several tuned networks at once, with weights that depend on the noise level.

    Args:
        tuned: the networks; the original is not among them.
        weights_at: threshold to one weight a network, brought to a sum of 1. The first threshold, in the given order,
            that is at most t decides.

    Raises:
        ConfigError: a threshold's weights are not one a network or have no sum, or some t lies below every threshold.
    """
    check_weights(weights_at, len(tuned))
    mixes = {threshold: weighted(tuned, normalised(weights)) for threshold, weights in weights_at.items()}

    def denoise(x_t: Tensor, t: Timestep) -> Prediction:
        if not isinstance(t, int):
            raise TypeError("a hybrid walks a batch through the same timesteps")
        return next(mix for threshold, mix in mixes.items() if threshold <= t)(x_t, t)

    return denoise


def normalised(weights: Sequence[float]) -> list[float]:
    """The weights divided by their sum."""
    return [weight / sum(weights) for weight in weights]


def weighted(parts: Sequence[Denoise], weights: Sequence[float]) -> Denoise:
    """The sum of weight x prediction; of a single part with weight 1, its prediction untouched."""
    used = [(weight, part) for weight, part in zip(weights, parts, strict=True) if weight != 0]
    if len(used) == 1 and used[0][0] == 1:
        return used[0][1]

    def denoise(x_t: Tensor, t: Timestep) -> Prediction:
        predictions = [(weight, part(x_t, t)) for weight, part in used]
        eps = _sum([weight * prediction.eps for weight, prediction in predictions])
        variances = [w * p.log_variance for w, p in predictions if p.log_variance is not None]
        return Prediction(eps, _sum(variances) if variances else None)

    return denoise


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
