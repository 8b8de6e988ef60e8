"""A cluster that grows by itself is asked for what a command can use, and waited for."""

from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.executors import ray_nodes

pytestmark = pytest.mark.ray


def there() -> dict[str, float]:
    import ray

    from pipeline.executors.ray_cluster import cluster

    with cluster(None, None):
        found: dict[str, float] = ray.cluster_resources()
        return found


def test_a_cluster_that_does_not_grow_is_what_it_is_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ray_nodes.VARIABLE, raising=False)
    before = there()
    with ray_nodes.resources({"GPU": 1.0}, 8) as found:
        assert found == before
        assert "GPU" not in found


def test_a_wait_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ray_nodes.VARIABLE, "an hour")
    with pytest.raises(ConfigError, match="a number of seconds"), ray_nodes.resources({"GPU": 1.0}, 1):
        pass
