"""The `ray up` file as Ray reads it before it calls AWS, and as AWS would read what Ray sends."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import ray.autoscaler
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config
from retouch.deployment.kubernetes.manifests import AUTOSCALING, ENVIRONMENT

PATH = Path(__file__).parents[2] / "cluster/ray_up_aws.yaml"
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
Damage = Callable[[dict[str, Any]], Any]


@pytest.fixture
def config() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(PATH.read_text())
    return found


@pytest.fixture(scope="module")
def run_instances() -> Any:
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def check(config: dict[str, Any], shape: Any) -> None:
    """Raises where Ray or AWS would refuse it."""
    jsonschema.validate(config, SCHEMA)
    validate_config(prepare_config(copy.deepcopy(config)))
    for name, kind in config["available_node_types"].items():
        asked = {"MinCount": 1, "MaxCount": 1, **kind["node_config"]}
        report = ParamValidator().validate(asked, shape)
        if report.has_errors():
            raise ValueError(f"{name}: {report.generate_report()}")


def test_ray_and_aws_accept_it(config: dict[str, Any], run_instances: Any) -> None:
    check(config, run_instances)


DAMAGES: dict[str, Damage] = {
    "an unknown key": lambda it: it.update(max_worker=3),
    "a text for a number": lambda it: it.update(max_workers="3"),
    "no provider": lambda it: it.pop("provider"),
    "a head that there is not": lambda it: it.update(head_node_type="heads"),
    "more at least than at most": lambda it: it["available_node_types"]["gpu"].update(min_workers=20),
    "a container without a name": lambda it: it["docker"].pop("container_name"),
    "a typo in what AWS reads": lambda it: it["available_node_types"]["gpu"]["node_config"].update(InstanceTyp="x"),
    "a market that is no mapping": lambda it: it["available_node_types"]["gpu"]["node_config"].update(
        InstanceMarketOptions="spot"
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_is_damaged_is_refused(damage: Damage, config: dict[str, Any], run_instances: Any) -> None:
    damage(config)
    with pytest.raises((jsonschema.ValidationError, ValueError, AssertionError)):
        check(config, run_instances)


def test_the_head_is_on_demand_and_runs_no_task_and_gpus_are_spot(config: dict[str, Any]) -> None:
    kinds = config["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in kinds["head"]["node_config"]
    assert kinds["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert kinds["gpu"]["resources"] == {"CPU": 0, "GPU": 1}
    assert kinds["cpu"]["resources"]["CPU"] >= 1
    assert kinds["cpu"]["min_workers"] >= 1


def test_its_ray_has_the_same_variables_as_the_pods(config: dict[str, Any]) -> None:
    def environment(options: str) -> dict[str, str]:
        pairs = (option.removeprefix("--env=").split("=", 1) for option in config["docker"][options] if "env" in option)
        return dict(pairs)  # type: ignore[arg-type]

    assert environment("run_options") == {"RAY_AUTH_MODE": "token", **ENVIRONMENT}
    assert environment("head_run_options") == {**AUTOSCALING, "CUDA_VISIBLE_DEVICES": ""}


def test_every_worker_watches_for_the_notice_and_has_the_token(config: dict[str, Any]) -> None:
    assert any("spot-drain" in command for command in config["worker_start_ray_commands"])
    assert config["file_mounts"] == {"/home/retouch/.ray/auth_token": "~/.ray/auth_token"}
