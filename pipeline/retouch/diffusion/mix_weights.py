"""Weights of a mix of networks by noise level, as a job gives them. Knows no tensor: jobs are checked without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from retouch.errors import ConfigError


def check_weights(weights_at: Mapping[int, Sequence[float]], networks: int) -> None:
    """Whether a hybrid of so many networks can be made.

    Raises:
        ConfigError: a threshold's weights are not one a network or have no sum, or some t lies below every threshold.
    """
    for threshold, weights in weights_at.items():
        if len(weights) != networks:
            raise ConfigError(
                f"hybrid has {len(weights)} weights at threshold {threshold} for {networks} network(s); give one each"
            )
        if not sum(weights) > 0:
            raise ConfigError(f"hybrid's weights at threshold {threshold} sum to {sum(weights):g}; give a sum over 0")
    if not weights_at or min(weights_at) > 0:
        lowest = f"below t = {min(weights_at)}" if weights_at else "at all"
        raise ConfigError(f"hybrid has no weights {lowest}; give a threshold 0")
