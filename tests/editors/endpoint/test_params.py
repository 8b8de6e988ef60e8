"""The endpoint's params mean something, or say in one line why not."""

from __future__ import annotations

from typing import Any

import pytest
from retouch.editors.endpoint.params import Params
from retouch.errors import ConfigError
from retouch.plugins import check_params

GIVEN = {"url": "http://localhost:8000/v1", "model": "m"}


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"url": "localhost:8000"}, "url 'localhost:8000' is no http"),
        ({"url": "ftp://host/v1"}, "is no http"),
        ({"url": "https://me:secret-word@host/v1"}, "name a variable in api_key_env"),
        ({"url": "https://host/v1?api-key=secret-word"}, "name a variable in api_key_env"),
        ({"size": 8}, "size is 8"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"attempts": 0}, "attempts is 0"),
        ({"timeout_seconds": 0.0}, "timeout_seconds is 0.0"),
        ({"fields": {"seed": 3}}, "fields may not set seed"),
        ({"fields": {"mask_image": "x"}, "mask_field": "mask_image"}, "fields may not set mask_image"),
        ({"mask": "black"}, "editor.params.mask"),
        ({"steps": 3}, "editor.params.steps: unknown key"),
    ],
)
def test_what_cannot_mean_anything_is_refused_in_one_line(values: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        check_params(Params, {**GIVEN, **values}, "editor.params")
    assert "\n" not in str(caught.value)
    assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize("missing", ["url", "model"])
def test_address_and_model_are_required(missing: str) -> None:
    with pytest.raises(ConfigError, match=rf"editor\.params\.{missing}"):
        check_params(Params, {name: value for name, value in GIVEN.items() if name != missing}, "editor.params")


def test_further_fields_are_numbers_texts_and_switches() -> None:
    fields = {"num_inference_steps": 28, "guidance_scale": 3.5, "quality": "high", "fast": True}
    assert check_params(Params, {**GIVEN, "fields": fields}, "editor.params").fields == fields
    with pytest.raises(ConfigError, match="fields"):
        check_params(Params, {**GIVEN, "fields": {"list": [1]}}, "editor.params")
