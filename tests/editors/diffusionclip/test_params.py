"""Wrong values are refused in one line; a hybrid means the same however it was written."""

import dataclasses
import json

import pytest
from retouch.editors.diffusionclip.params import Params
from retouch.errors import ConfigError
from retouch.plugins import check_params


def test_the_defaults_are_those_of_a_job_that_says_nothing():
    assert check_params(Params, {}, "editor diffusionclip") == Params()
    assert Params().t_0 % (Params().n_inv - 1) != 0 != Params().t_0 % Params().n_inv


@pytest.mark.parametrize(
    "wrong",
    [
        {"t_0": 1},
        {"t_0": 1000},
        {"n_inv": 1},
        {"n_gen": 1},
        {"n_gen": -1},
        {"purify_steps": 1},
        {"n_train": 1},
        {"eta": 1.5},
        {"repeats": 0},
        {"repeats": 2},
        {"purify": -1},
        {"optimise": -1},
        {"clip_weight": -1.0},
        {"l1_weight": -1.0},
        {"latent_lr": 0.0},
        {"keep_networks": 0},
        {"hybrid": {300: [1.0]}},
        {"hybrid": {0: []}},
        {"hybrid": {0: [0.0]}},
        {"networks": ["a", "b"]},
    ],
)
def test_values_that_cannot_be_are_a_config_error_that_names_them(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=name) as error:
        Params(**wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("beside", [{"purify": 1}, {"start": "noise"}])
def test_a_latent_is_not_optimised_from_elsewhere(beside):
    with pytest.raises(ConfigError, match="optimise"):
        Params(optimise=5, **beside)


@pytest.mark.parametrize(
    "wrong", [{"sampler": "plms"}, {"start": "middle"}, {"n_inv": "many"}, {"hybrid": {"high": [1]}}, {"networks": 3}]
)
def test_a_job_files_wrong_types_are_a_config_error(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        check_params(Params, wrong, "editor diffusionclip")


@pytest.mark.parametrize("hybrid", [{"high": [1]}, {0: ["much"]}, {0: 1}, [1]])
def test_a_rows_hybrid_that_cannot_be_read_is_a_config_error(hybrid):
    with pytest.raises(ConfigError, match="hybrid is"):
        Params().overridden({"hybrid": hybrid})


def test_a_hybrids_thresholds_may_come_as_text_and_in_any_order():
    wanted = {300: (0.4, 0.6), 0: (0.2, 0.8)}
    for written in (wanted, {"0": [0.2, 0.8], "300": [0.4, 0.6]}, dict(reversed(wanted.items()))):
        params = check_params(Params, {"networks": ["a", "b"], "hybrid": written}, "editor diffusionclip")
        assert list(params.hybrid.items()) == list(wanted.items())


def test_a_row_overrides_the_job():
    job = Params(t_0=301, networks=("a", "b"), hybrid={0: [1, 1]})
    row = job.overridden(json.loads('{"hybrid": {"0": [1, 3]}, "n_gen": 6}'))
    assert (row.t_0, row.n_gen, row.networks, row.hybrid) == (301, 6, ("a", "b"), {0: (1.0, 3.0)})
    assert job.overridden({}) is job
    with pytest.raises(ConfigError, match=r"params\.strength: unknown key; use one of: t_0"):
        job.overridden({"strength": 1})


def test_a_record_of_the_params_makes_the_same_params():
    params = Params(networks=("a", "b"), hybrid={300: [1, 0], 0: [1, 1]})
    record = json.loads(json.dumps(dataclasses.asdict(params)))
    assert check_params(Params, record, "the record") == params


def test_a_tuned_network_is_needed_unless_nothing_asks_for_it():
    assert Params().needs_tuned
    assert Params(ratio=0.0, hybrid={0: [1]}).needs_tuned
    assert not Params(ratio=0.0).needs_tuned
    assert not Params(optimise=1).needs_tuned
