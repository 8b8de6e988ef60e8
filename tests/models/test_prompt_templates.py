from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES
from retouch.errors import ConfigError
from retouch.models.prompt_templates import PLAIN, fill, imagenet_templates


def test_the_templates_are_the_79_that_the_published_losses_average_over() -> None:
    templates = imagenet_templates()
    assert len(templates) == 79
    assert len(set(templates)) == 79
    assert all(template.count("{}") == 1 for template in templates)
    assert (templates[0], templates[1], templates[-1]) == (
        "a bad photo of a {}.",
        "a sculpture of a {}.",
        "a tattoo of the {}.",
    )


def test_only_the_one_with_many_is_left_out_and_the_order_is_kept() -> None:
    theirs = [template("zebra") for template in OPENAI_IMAGENET_TEMPLATES]
    theirs.remove("a photo of many zebra.")
    assert fill(imagenet_templates(), "zebra") == theirs


@given(st.text())
def test_a_text_comes_out_as_it_was_written_whatever_braces_it_has(text: str) -> None:
    assert fill(PLAIN, text) == [text]
    assert fill(["a {}, drawn"], text) == [f"a {text}, drawn"]


@pytest.mark.parametrize("template", ["a photo", "{} and {}"])
def test_a_template_that_loses_or_doubles_the_text_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        fill(["a {}", template], "cat")
