"""What is installed says what it takes; what does not import says why, and hides nobody else."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest
from retouch import plugins
from retouch.errors import PluginError
from retouch.jobs.plugin_catalog import installed, named


def test_an_editor_says_its_package_its_inputs_its_columns_and_every_parameter_with_its_meaning() -> None:
    (editor,) = named("diffusionclip")
    assert editor.package.startswith("retouch ")
    assert editor.inputs == ("checkpoint", "mask", "prompt", "source_prompt")
    params = {field.path: field for field in editor.params}
    assert (params["t_0"].type, params["t_0"].default) == ("integer", "401")
    assert "300" not in params["hybrid"].meaning
    assert params["n_gen"].meaning.startswith("Passes of the generation")


def test_a_metrics_options_are_those_of_its_load() -> None:
    options = {field.path for plugin in installed(["metrics"]) for field in plugin.params}
    assert not options & {"weights", "device", "options"}
    (score,) = named("clip_score")
    assert (score.columns, score.params) == ({"clip_score": "float64"}, ())


def test_one_that_does_not_import_is_listed_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("broken", "no.such:Thing", "retouch.sinks")
    there = plugins.available

    def with_broken(kind: plugins.Kind) -> dict[str, Any]:
        return {**there(kind), **({"broken": broken} if kind == "sinks" else {})}

    monkeypatch.setattr(plugins, "available", with_broken)
    found = {plugin.name: plugin for plugin in installed(["sinks"])}
    assert set(found) == {"broken", "files", "tar"}
    assert "No module named 'no'" in str(found["broken"].error)
    assert found["files"].error is None


def test_a_misspelt_name_is_met_with_the_one_that_was_meant() -> None:
    with pytest.raises(PluginError, match="no plug-in named 'clip_scor'; did you mean clip_score"):
        named("clip_scor")
