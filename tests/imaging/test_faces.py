"""FFHQ's square moves with the face; wrong landmarks and detectors are refused."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from retouch.errors import LoadError, WeightsError
from retouch.imaging.faces import FaceDetector, Landmarks, ffhq_quad
from skimage import data

from tests.helpers import tiny_yunet

UPRIGHT = [40.0, 50.0, 60.0, 50.0, 50.0, 60.0, 42.0, 70.0, 58.0, 70.0]
REAL = os.environ.get("RETOUCH_YUNET", "")


def of_68(five: list[float]) -> list[float]:
    """Five landmarks as 68: every eye point around the eye's middle, the rest where it must not matter."""
    points = np.random.default_rng(0).uniform(0, 100, (68, 2))
    known = np.array(five).reshape(5, 2)
    ring = np.array([[math.cos(turn), math.sin(turn)] for turn in np.arange(6) * math.pi / 3])
    points[36:42], points[42:48] = known[0] + 3 * ring, known[1] + 3 * ring
    points[48], points[54] = known[3], known[4]
    return points.ravel().tolist()


def test_the_square_of_an_upright_face_is_the_one_worked_out_by_hand() -> None:
    # Eyes 20 apart at (50, 50), mouth 20 below: max(2 x 20, 1.8 x 20) = 40 on either side of (50, 50 + 0.1 x 20).
    assert ffhq_quad(Landmarks.of(UPRIGHT)).tolist() == [[10, 12], [10, 92], [90, 92], [90, 12]]


def test_a_long_face_is_measured_by_its_mouth() -> None:
    face = Landmarks.of([40, 50, 60, 50, 50, 60, 42, 90, 58, 90])  # mouth 40 below: 1.8 x 40 = 72
    assert np.allclose(ffhq_quad(face), [[-22, -18], [-22, 126], [122, 126], [122, -18]])


@given(
    angle=st.floats(-math.pi, math.pi),
    scale=st.floats(0.1, 20),
    shift=st.tuples(st.floats(-1000, 1000), st.floats(-1000, 1000)),
    jitter=st.lists(st.floats(-4, 4), min_size=10, max_size=10),
)
def test_turning_scaling_and_moving_a_face_does_so_to_its_square(
    angle: float, scale: float, shift: tuple[float, float], jitter: list[float]
) -> None:
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = (np.array(UPRIGHT) + jitter).reshape(5, 2)
    moved = points @ turn.T + shift
    quad, moved_quad = (ffhq_quad(Landmarks.of(face.ravel().tolist())) for face in (points, moved))
    assert np.allclose(moved_quad, quad @ turn.T + shift, atol=1e-6)


@given(jitter=st.lists(st.floats(-4, 4), min_size=10, max_size=10))
def test_the_corners_make_a_square_whatever_the_face(jitter: list[float]) -> None:
    quad = ffhq_quad(Landmarks.of((np.array(UPRIGHT) + jitter).tolist()))
    sides = np.roll(quad, -1, axis=0) - quad
    assert np.allclose(np.hypot(*sides.T), np.hypot(*sides[0]))
    assert np.allclose((sides * np.roll(sides, 1, axis=0)).sum(axis=1), 0, atol=1e-9)


def test_5_and_68_points_of_the_same_face_give_the_same_square() -> None:
    assert np.allclose(ffhq_quad(Landmarks.of(of_68(UPRIGHT))), ffhq_quad(Landmarks.of(UPRIGHT)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "0 numbers"),
        (UPRIGHT[:8], "8 numbers; expected x and y of 5 or 68"),
        ([*UPRIGHT, 1.0], "11 numbers"),
        ([*UPRIGHT[:9], None], "all finite"),
        ([*UPRIGHT[:9], math.inf], "all finite"),
        ([1.0] * 10, "make no face"),
        ([*UPRIGHT[2:4], *UPRIGHT[:2], *UPRIGHT[4:]], "from left to right"),
    ],
)
def test_landmarks_that_make_no_face_say_what_is_expected(values: list[float | None], message: str) -> None:
    with pytest.raises(LoadError, match=message) as caught:
        Landmarks.of(values)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> FaceDetector:
    return FaceDetector.load(str(tiny_yunet.write(tmp_path_factory.mktemp("yunet") / "tiny.onnx")))


def test_a_face_is_found_where_it_is_with_its_five_landmarks(tiny: FaceDetector) -> None:
    picture = np.zeros((200, 300, 3), np.uint8)
    middle = tiny_yunet.white_cell(picture, 20, 9)
    (face,) = tiny.detect(picture)
    assert np.allclose(face.points, middle + tiny_yunet.LANDMARKS, atol=0.01)
    assert not tiny.detect(np.zeros((200, 300, 3), np.uint8))


def test_all_faces_are_found_in_one_look(tiny: FaceDetector) -> None:
    picture = np.zeros((200, 250, 3), np.uint8)
    middles = [tiny_yunet.white_cell(picture, column, row) for column, row in [(5, 5), (22, 5), (14, 18)]]
    found = sorted(tuple((face.points - tiny_yunet.LANDMARKS)[0].round(3)) for face in tiny.detect(picture))
    assert found == sorted(tuple(middle) for middle in middles)


@pytest.mark.parametrize("shape", [(1200, 1600), (1600, 1200), (40, 3000), (3, 2)])
def test_an_image_of_any_size_is_looked_at_and_landmarks_are_native(tiny: FaceDetector, shape: tuple[int, int]) -> None:
    picture = np.zeros((*shape, 3), np.uint8)
    if min(shape) < 100:
        assert tiny.detect(picture) == []
        return
    picture[600:620, 800:820] = 255  # a cell at 640 of 1600 pixels
    (face,) = tiny.detect(picture)
    half_a_pixel = 2.5 / 2  # of what the detector was shown
    assert np.abs(face.points - [809.5, 609.5] - tiny_yunet.LANDMARKS * 2.5).max() <= half_a_pixel


def test_a_face_that_is_found_at_two_scales_is_one(tiny: FaceDetector) -> None:
    picture = np.zeros((1280, 1280, 3), np.uint8)
    picture[400:440, 400:440] = 255  # a cell at 256 pixels, and several at 640
    assert len(tiny.detect(picture)) == 1


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


def _pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:8f2383e4\nsize 232589\n")


def _half(path: Path) -> None:
    tiny_yunet.write(path)
    path.write_bytes(path.read_bytes()[:5000])


def _another_network(path: Path) -> None:
    tiny_yunet.write(path, heads=("cls", "obj"))


def _not_there(path: Path) -> None:
    pass


@pytest.mark.parametrize("broken", [_nothing, _pointer, _half, _another_network, _not_there])
def test_a_file_that_is_no_yunet_says_so_in_one_line(
    tmp_path: Path, broken: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    broken(tmp_path / "face.onnx")
    with pytest.raises(WeightsError, match=r"face\.onnx is no YuNet face detector") as caught:
        FaceDetector.load(str(tmp_path / "face.onnx"))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not REAL, reason="set RETOUCH_YUNET=/path/face_detection_yunet_2023mar.onnx")
@pytest.mark.parametrize("turns", [1, 4])
def test_the_published_detector_finds_the_face_of_a_photo_large_and_small(turns: int) -> None:
    photo = np.repeat(np.repeat(data.astronaut(), turns, axis=0), turns, axis=1)
    (face,) = FaceDetector.load(REAL).detect(photo)
    assert np.allclose(face.eyes / turns, [[203, 101], [247, 103]], atol=6)
    assert np.allclose(face.mouth / turns, [224, 142], atol=6)
