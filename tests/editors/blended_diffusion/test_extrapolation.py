"""Growing an image sideways leaves what was there."""

import numpy as np
import pytest
from retouch.editors.blended_diffusion.extrapolation import extrapolate, shifted
from retouch.errors import ConfigError
from retouch.schema import EditResult

SIZE, STRIP = 16, 4


class Painter:
    """An editor that paints the masked region in a grey that prompt and seed decide, and spoils everything else."""

    image_size = SIZE

    def __init__(self):
        self.batches = []

    def edit_batch(self, batch):
        self.batches.append(batch)
        results = []
        for image, mask, prompt, seed in zip(batch.image, batch.mask, batch.prompt, batch.seed, strict=True):
            paint = (len(prompt) * 40 + seed % 7) % 256
            results.append(EditResult(np.where(mask[..., None], paint, 255 - image).astype(np.uint8)))
        return results


def picture(width=SIZE):
    return np.random.default_rng(0).integers(0, 256, (SIZE, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("width", [SIZE - STRIP, SIZE, 40])
def test_the_original_pixels_stand_untouched_in_the_middle(width):
    image = picture(width)
    grown = extrapolate(Painter(), image, {"left": "hell", "right": "heaven"}, strips=3, strip=STRIP)
    assert grown.shape == (SIZE, width + 6 * STRIP, 3)
    assert np.array_equal(grown[:, 3 * STRIP : 3 * STRIP + width], image)


def test_each_side_follows_its_own_prompt():
    painter = Painter()
    extrapolate(painter, picture(), {"right": "heaven", "left": "hell"}, strips=2, strip=STRIP)
    assert [list(batch.prompt) for batch in painter.batches] == [["hell", "heaven"]] * 2


def test_one_side_grows_alone():
    image = picture()
    grown = extrapolate(Painter(), image, {"left": "sea"}, strips=1, strip=STRIP)
    assert grown.shape == (SIZE, SIZE + STRIP, 3)
    assert np.array_equal(grown[:, STRIP:], image)


def test_each_strip_continues_the_one_before():
    painter = Painter()
    grown = extrapolate(painter, picture(), {"right": "sea"}, strips=2, strip=STRIP)
    seen = painter.batches[1].image[0][:, : SIZE - STRIP]
    assert np.array_equal(seen, grown[:, 2 * STRIP : -STRIP])


def test_every_strip_has_a_seed_of_its_own_that_the_whole_decides():
    def seeds(seed):
        painter = Painter()
        extrapolate(painter, picture(), {"left": "a", "right": "b"}, strips=2, strip=STRIP, seed=seed)
        return [each for batch in painter.batches for each in batch.seed]

    assert len(set(seeds(1))) == 4
    assert seeds(1) == seeds(1)
    assert not set(seeds(1)) & set(seeds(2))


def test_a_window_moves_outwards_and_is_filled_by_reflection():
    image = picture(30)
    right, uncovered = shifted(image, "right", SIZE, STRIP)
    assert np.array_equal(right[:, :12], image[:, -12:])
    assert np.array_equal(right[:, 12:], image[:, -2:-6:-1])
    assert np.array_equal(uncovered.any(axis=0), np.arange(SIZE) >= 12)
    left, uncovered = shifted(image, "left", SIZE, STRIP)
    assert np.array_equal(left[:, 4:], image[:, :12])
    assert np.array_equal(left[:, :4], image[:, 4:0:-1])
    assert np.array_equal(uncovered.any(axis=0), np.arange(SIZE) < 4)


@pytest.mark.parametrize(
    ("shape", "prompts", "strip", "words"),
    [
        ((SIZE, 8, 3), {"left": "a"}, STRIP, "resize it"),
        ((SIZE + 1, SIZE, 3), {"left": "a"}, STRIP, "resize it"),
        ((SIZE, SIZE, 3), {"left": "a"}, 8, "give 1 to 7"),
        ((SIZE, SIZE, 3), {"left": "a"}, 0, "give 1 to 7"),
        ((SIZE, SIZE, 3), {"up": "a"}, STRIP, "not to the up"),
    ],
)
def test_what_does_not_fit_is_a_config_error(shape, prompts, strip, words):
    with pytest.raises(ConfigError, match=words):
        extrapolate(Painter(), np.zeros(shape, np.uint8), prompts, strips=1, strip=strip)
