"""What the network sees of an image, and the promise that nothing outside the mask changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.imaging.regions import (
    Region,
    changed_outside,
    edge_weights,
    fit_region,
    grown,
    opaque_inside,
    resize,
    whole,
)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, str]:
    """An image, a mask with at least one pixel, a network's size and a mode."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = rng.random((height, width)) < draw(st.sampled_from([0.01, 0.2, 1.0]))
    if draw(st.booleans()):  # in one place rather than all over
        keep = np.zeros_like(mask)
        keep[: height // 3 + 1, : width // 3 + 1] = True
        mask &= keep
    mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    source = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return source, mask, draw(st.integers(1, 32)), draw(st.sampled_from(["auto", "crop", "resize"]))


@settings(max_examples=150, deadline=None)
@given(scene=scenes())
def test_outside_the_mask_every_pixel_stays_and_inside_lies_the_edit(scene: tuple) -> None:
    source, mask, size, mode = scene
    region = fit_region(mask, size, mode=mode)
    before = source.copy()
    edited = 255 - region.extract(source, (size, size))
    output = region.composite(source, edited, mask)
    assert np.array_equal(source, before)
    assert np.array_equal(output[~mask], source[~mask])
    assert changed_outside(source, output, mask) == 0
    if (region.height, region.width) == (size, size):
        assert np.array_equal(output[mask], 255 - source[mask])


@settings(max_examples=150, deadline=None)
@given(scene=scenes())
def test_a_region_lies_in_the_image_and_holds_the_whole_mask(scene: tuple) -> None:
    _, mask, size, mode = scene
    region = fit_region(mask, size, mode=mode)
    height, width = mask.shape
    assert 0 <= region.x0 < region.x1 <= width
    assert 0 <= region.y0 < region.y1 <= height
    assert mask[region.slices].sum() == mask.sum()
    if mode == "auto" and region != Region(0, 0, width, height):
        assert region.width == region.height
        assert region.width >= min(size, height, width)


@settings(max_examples=150, deadline=None)
@given(scene=scenes())
def test_the_network_is_never_given_an_empty_mask(scene: tuple) -> None:
    _, mask, size, mode = scene
    seen = fit_region(mask, size, mode=mode).extract_mask(mask, (size, size))
    assert seen.shape == (size, size)
    assert seen.any()


def test_a_small_mask_in_a_large_image_is_cropped_square_at_native_size() -> None:
    mask = np.zeros((300, 500), dtype=bool)
    mask[200:210, 480:490] = True
    region = fit_region(mask, 64)
    assert (region.width, region.height) == (64, 64)
    assert region == Region(436, 173, 500, 237)  # centred on the mask, then moved inside the right border
    source = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    assert np.array_equal(region.extract(source, (64, 64)), source[region.slices])


def test_context_grows_the_crop_with_the_mask() -> None:
    mask = np.zeros((400, 400), dtype=bool)
    mask[100:200, 150:210] = True
    assert fit_region(mask, 64, context=0.5).width == 200
    assert fit_region(mask, 64, context=0.0) == Region(130, 100, 230, 200)


def test_a_mask_that_no_square_holds_shows_the_whole_image_or_when_asked_the_smallest_rectangle() -> None:
    mask = np.zeros((100, 400), dtype=bool)
    mask[40:60, 50:350] = True
    assert fit_region(mask, 64) == Region(0, 0, 400, 100)
    assert fit_region(mask, 64, mode="crop") == Region(50, 0, 350, 100)


@pytest.mark.parametrize("mode", ["auto", "crop", "resize"])
def test_an_image_that_is_not_larger_than_the_network_is_seen_whole(mode: str) -> None:
    mask = np.zeros((40, 64), dtype=bool)
    mask[3, 5] = True
    assert fit_region(mask, 64, mode=mode) == Region(0, 0, 64, 40)


def test_resize_sees_the_whole_of_any_image() -> None:
    mask = np.zeros((300, 500), dtype=bool)
    mask[200, 480] = True
    assert fit_region(mask, 64, mode="resize") == Region(0, 0, 500, 300)


def test_an_image_of_the_networks_size_goes_through_untouched() -> None:
    source = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    region = fit_region(whole((16, 16)), 16)
    assert np.array_equal(region.extract(source, (16, 16)), source)
    assert np.array_equal(resize(source, 16, 16), source)
    assert np.array_equal(region.composite(np.zeros_like(source), source, whole((16, 16))), source)


def test_a_changed_pixel_outside_is_counted_once_whatever_its_channels() -> None:
    source = np.zeros((4, 4, 3), dtype=np.uint8)
    output = source.copy()
    output[0, 0] = 9
    output[1, 1, 2] = 1
    output[2, 2] = 7
    mask = np.zeros((4, 4), dtype=bool)
    mask[2, 2] = True
    assert changed_outside(source, output, mask) == 2


def test_what_is_edited_becomes_opaque() -> None:
    alpha = np.zeros((2, 2), dtype=np.uint8)
    mask = np.array([[True, False], [False, False]])
    assert opaque_inside(alpha, mask) is not None
    assert opaque_inside(alpha, mask).tolist() == [[255, 0], [0, 0]]
    assert opaque_inside(None, mask) is None


# -- grown and feathered masks --


def distances(mask: np.ndarray) -> np.ndarray:
    """Each pixel's distance to the nearest True one, by comparing all pairs."""
    places = np.argwhere(mask)
    rows, columns = np.indices(mask.shape)
    return np.sqrt((rows[..., None] - places[:, 0]) ** 2 + (columns[..., None] - places[:, 1]) ** 2).min(axis=-1)


@settings(max_examples=80, deadline=None)
@given(scene=scenes(), pixels=st.integers(0, 12))
def test_a_mask_grows_by_all_pixels_within_a_distance_and_shrinks_likewise(scene: tuple, pixels: int) -> None:
    mask = scene[1]
    assert np.array_equal(grown(mask, pixels), distances(mask) <= pixels)
    if not mask.all():
        assert np.array_equal(grown(mask, -pixels), distances(~mask) > pixels)


@settings(max_examples=150, deadline=None)
@given(scene=scenes(), feather=st.integers(1, 9))
def test_an_edit_fades_in_inside_the_mask_and_nothing_outside_changes(scene: tuple, feather: int) -> None:
    source, mask, size, mode = scene
    region = fit_region(mask, size, mode=mode)
    soft = Region(region.x0, region.y0, region.x1, region.y1, feather)
    edited = 255 - region.extract(source, (size, size))
    sharp, output = region.composite(source, edited, mask), soft.composite(source, edited, mask)
    assert np.array_equal(output[~mask], source[~mask])
    shown = mask & region.footprint((mask.shape[0], mask.shape[1]))
    deep = shown if shown.all() else shown & (distances(~shown) > feather)
    assert np.array_equal(output[deep], sharp[deep])
    low, high = np.minimum(source, sharp), np.maximum(source, sharp)
    assert (output >= low).all()
    assert (output <= high).all()


@settings(max_examples=80, deadline=None)
@given(scene=scenes(), feather=st.integers(0, 9))
def test_the_edits_weight_rises_from_the_edge_inwards(scene: tuple, feather: int) -> None:
    mask = scene[1]
    weights = edge_weights(mask, feather)
    assert (weights[~mask] == 0).all()
    assert (weights[mask] > 0).all()
    if not mask.all():
        depth = distances(~mask)[mask]
        by_depth = weights[mask][np.argsort(depth, kind="stable")]
        assert (np.diff(by_depth) >= -1e-6).all()
        assert (weights[mask][depth > feather] == 1).all()


@settings(max_examples=80, deadline=None)
@given(scene=scenes(), feather=st.integers(0, 6))
def test_colours_that_a_viewer_could_not_see_decide_no_pixel_of_a_fading_edit(scene: tuple, feather: int) -> None:
    source, mask, size, mode = scene
    alpha = np.where(np.arange(mask.size).reshape(mask.shape) % 3 == 0, 0, 255).astype(np.uint8)
    other = np.where(alpha[..., None] == 0, 255 - source, source).astype(np.uint8)
    view = replace(fit_region(mask, size, mode=mode), feather=feather)
    edited = np.full((size, size, 3), (10, 200, 90), np.uint8)
    outputs = [view.composite(pixels, edited, mask, alpha) for pixels in (source, other)]
    shown = mask & view.footprint(mask.shape)
    assert np.array_equal(outputs[0][shown], outputs[1][shown])
    visible = opaque_inside(alpha, shown, view.weights(mask))
    assert np.array_equal(visible[~shown], alpha[~shown])
    assert (visible[shown & (alpha == 255)] == 255).all()
    assert (visible[shown] > 0).all()
    if not feather:
        assert (visible[shown] == 255).all()


def test_a_crop_that_cuts_the_mask_fades_at_its_own_border_and_not_at_the_images() -> None:
    source, edited = np.zeros((4, 8, 3), np.uint8), np.full((4, 4, 3), 240, np.uint8)
    output = Region(0, 0, 4, 4, feather=2).composite(source, edited, whole((4, 8)))
    assert output[:, :, 0].tolist() == [[240, 240, 160, 80, 0, 0, 0, 0]] * 4
