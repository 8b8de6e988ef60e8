"""The captions of training and the shipped tokenizer: every word that they use is known, and no text is refused."""

import numpy as np
import pytest
from embedded_models.captions import (
    EMPTY,
    MAX_TOKENS,
    WORDS,
    ground_caption,
    merges,
    object_caption,
    scene_caption,
    tokenizer,
)
from retouch.models.embedded.scenes import COLOURS, GROUNDS, SHAPES, TEXTURES, parse_prompt

TOKENS = tokenizer()


def _ids(text: str) -> list[int]:
    found = TOKENS(text, padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids
    assert len(found) == MAX_TOKENS
    assert 0 <= min(found) <= max(found) < len(TOKENS)
    return list(found)


@pytest.mark.parametrize("word", WORDS)
def test_each_word_of_the_captions_is_one_token(word: str) -> None:
    start, token, end = TOKENS(word).input_ids
    assert (start, end) == (TOKENS.bos_token_id, TOKENS.eos_token_id)
    assert TOKENS.convert_ids_to_tokens(token) == f"{word}</w>"


def test_a_words_token_does_not_depend_on_the_words_after_it() -> None:
    for count in range(1, len(WORDS) + 1):
        assert merges(WORDS[:count]) == merges()[: len(merges(WORDS[:count]))]


def test_captions_use_no_word_that_is_not_a_token() -> None:
    rng = np.random.default_rng(0)
    used: set[str] = set()
    for _ in range(2000):
        shape, colour = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
        ground, texture = str(rng.choice(list(GROUNDS))), str(rng.choice(TEXTURES))
        used |= set(object_caption(rng, shape, colour, ground, texture, unknown=0.0).replace(",", "").split())
        used |= set(scene_caption(rng, [(shape, colour)] * 2, ground, texture, part=0.0).split())
        used |= set(ground_caption(rng, ground, texture).split())
    assert used == set(WORDS)  # and each token is trained


def test_the_caption_of_an_object_names_it_in_every_phrasing() -> None:
    rng = np.random.default_rng(1)
    texts = {object_caption(rng, "cross", "orange", "gray", "plain") for _ in range(500)}
    assert {"an orange cross", "orange cross"} < texts
    assert {parse_prompt(text) for text in texts} == {("cross", "orange")}


def test_the_caption_of_bare_ground_names_no_object() -> None:
    rng = np.random.default_rng(2)
    texts = {ground_caption(rng, "pink", "striped") for _ in range(200)}
    assert set(EMPTY) < texts
    assert "a striped pink ground" in texts
    assert {parse_prompt(text) for text in texts} == {("none", "none")}


def test_the_longest_caption_fits() -> None:
    longest = "an orange triangle next to an orange triangle on a striped white ground"
    assert len(TOKENS(longest).input_ids) <= 17


@pytest.mark.parametrize("text", ["A RED CIRCLE", "  a\nred   circle ", "A Red cIRCLE"])
def test_casing_and_spaces_change_nothing(text: str) -> None:
    assert _ids(text) == _ids("a red circle")


def test_an_empty_prompt_is_start_and_padding() -> None:
    assert _ids("") == [TOKENS.bos_token_id] + [TOKENS.eos_token_id] * (MAX_TOKENS - 1)


@pytest.mark.parametrize(
    "text", ["a photo-realistic zebra!", "ein roter Kreis", "красный круг", "🟥 \x00", "word " * 200]
)
def test_any_text_has_tokens(text: str) -> None:
    assert len(set(_ids(text))) > 2


def test_what_the_tokens_say_is_the_text() -> None:
    assert TOKENS.decode(TOKENS("Draw a violet circle").input_ids, skip_special_tokens=True) == "draw a violet circle"
