"""A wrong field is one line: where it is, what was got, what is allowed, which known name is near."""

from __future__ import annotations

from typing import Any

import pytest
from retouch import plugins
from retouch.editors.diffusionclip.params import Params
from retouch.errors import ConfigError, PluginError
from retouch.jobs.config import parse_job
from retouch.validation import nearest, unknown

JOB = {
    "name": "n",
    "manifest": "m.parquet",
    "output": "runs/n",
    "editor": {"name": "blended_diffusion", "weights": "embedded:shapes"},
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ray": {"actors": "many"}}, "ray.actors: got 'many'; allowed: a whole number from 1, or auto"),
        ({"ray": {"actors": 0}}, "ray.actors: got 0; allowed: a whole number from 1, or auto"),
        ({"ray": {"actor": 1}}, "ray.actor: unknown key; did you mean actors?"),
        ({"mask": {"threshold": 0}}, "mask.threshold: got 0; allowed: a whole number from 1 to 255"),
        ({"max_failure_rate": 2}, "max_failure_rate: got 2; allowed: a number from 0 to 1"),
        ({"deadlines": {"edit": 0}}, "deadlines.edit: got 0; allowed: a number above 0"),
        ({"image_format": "pgn"}, "image_format: got 'pgn'; allowed: png, webp-lossless, jpeg; did you mean png?"),
        ({"editor": {"name": "x", "wieghts": "w"}}, "editor.weights: missing; give text, or a mapping; "
         "editor.wieghts: unknown key; did you mean weights?"),
        ({"editor": {"name": "x", "weights": {"unet": 3}}}, "editor.weights.unet: got 3; allowed: text, or a list"),
        ({"editor": {"name": "x", "weights": {"unet": ["a", 3]}}}, "editor.weights.unet.1: got 3; allowed: text"),
        ({"editor": None}, "editor: got None; allowed: a mapping of name, weights, params"),
        ({"metrics": ["a", {"nam": "x"}]}, "metrics.1.nam: unknown key; did you mean name?"),
        ({"metrics": "fid"}, "metrics: got 'fid'; allowed: a list"),
        ({"quality": {"thresholds": {"c": {"mn": 3}}}}, "quality.thresholds.c.mn: unknown key; did you mean min?"),
        ({"name": "a b"}, "name: got 'a b'; allowed: text that matches ^["),
        ({"output": "x" * 99, "seed": "y" * 99}, f"seed: got '{'y' * 39}...; allowed: a whole number from 0"),
        ({"kind": "edt"}, "kind is 'edt'; this version runs: edit, finetune, train, evaluate; did you mean edit?"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_said_with_its_path_what_was_got_and_what_is_allowed(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        parse_job({**JOB, **changes}, "job.yaml")
    assert said in str(error.value)
    assert str(error.value).startswith("job.yaml: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"t0": 3}, "editor.params.t0: unknown key; did you mean t_0?"),
        ({"t_0": "x"}, "editor.params.t_0: got 'x'; allowed: a whole number"),
        ({"sampler": "ddmi"}, "editor.params.sampler: got 'ddmi'; allowed: ddim, ddpm"),
        ({"zzz": 1}, "editor.params.zzz: unknown key; use one of: t_0, n_inv"),
        ({"hybrid": {"a": [1]}}, "editor.params.hybrid.a: Input should be a valid integer"),
    ],
)
def test_so_is_a_wrong_parameter_of_an_editor(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        plugins.check_params(Params, values, "editor.params")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        ("editors", "blended_difusion", "blended_diffusion"),
        ("metrics", "clipscore", "clip_score"),
        ("sinks", "tars", "tar"),
    ],
)
def test_a_misspelt_plug_in_is_met_with_the_one_that_was_meant(kind: plugins.Kind, name: str, meant: str) -> None:
    with pytest.raises(PluginError, match=rf"no {kind[:-1]} named '{name}'; did you mean {meant}\?; installed: "):
        plugins.find(kind, name)


def test_what_is_near_to_nothing_is_met_with_all_names() -> None:
    assert nearest("colour", ["size", "seed"]) == ""
    assert unknown("a.colour", ["size", "seed"]) == "a.colour: unknown key; use one of: size, seed"
