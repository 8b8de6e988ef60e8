"""Weighted mixes of several denoisers' predictions of one x_t.

The noise predictions are mixed, not the images, and learned log-variances with the same weights. A network of weight 0
is not called. Source: Kim, Kwon, Ye 2022 (DiffusionCLIP), noise combination.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from retouch.diffusion.mix_weights import check_weights
from retouch.diffusion.sampling import Denoise, Prediction, Timestep


def by_ratio(original: Denoise, tuned: Denoise, ratio: float) -> Denoise:
    """Return a mix of ``ratio`` of the tuned network and 1 - ratio of the original: the degree of change.

    0 is the original alone, 1 the tuned network alone; other numbers extrapolate.
    """
    return weighted([original, tuned], [1 - ratio, ratio])


def hybrid(tuned: Sequence[Denoise], weights_at: Mapping[int, Sequence[float]]) -> Denoise:
    """Return a mix of several tuned networks whose weights depend on the noise level.

    Args:
        tuned: the networks; the original is not among them.
        weights_at: one weight per network by threshold, normalised to a sum of 1. The first threshold, in the given
            order, that is at most t applies.

    Raises:
        ConfigError: a threshold has not one weight per network or no positive sum, or some t is below every threshold.
    """
    check_weights(weights_at, len(tuned))
    mixes = {threshold: weighted(tuned, normalised(weights)) for threshold, weights in weights_at.items()}

    def denoise(x_t: Tensor, t: Timestep) -> Prediction:
        if not isinstance(t, int):
            raise TypeError("a hybrid needs one timestep for the whole batch, not a tensor of them")
        return next(mix for threshold, mix in mixes.items() if threshold <= t)(x_t, t)

    return denoise


def normalised(weights: Sequence[float]) -> list[float]:
    """Return the weights divided by their sum."""
    return [weight / sum(weights) for weight in weights]


def weighted(parts: Sequence[Denoise], weights: Sequence[float]) -> Denoise:
    """Return the sum of weight x prediction; a single part of weight 1 is returned as it is."""
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
