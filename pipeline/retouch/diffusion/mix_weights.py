"""Checks a job's weights of a mix of networks, without importing torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from retouch.errors import ConfigError


def check_weights(weights_at: Mapping[int, Sequence[float]], networks: int) -> None:
    """Raise ConfigError unless the weights define a hybrid of this number of networks at every t.

    Raises:
        ConfigError: a threshold has not one weight per network or no positive sum, or some t is below every threshold.
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
