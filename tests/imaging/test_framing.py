"""``fit: face``: the face that is chosen, the errors, and a run that edits it in place."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from retouch.errors import LoadError, NoFace, WeightsError
from retouch.execution.edit import run
from retouch.execution.engine import Engine
from retouch.execution.specs import EngineSpec
from retouch.imaging import codec, regions
from retouch.imaging.faces import FaceDetector, Landmarks, ffhq_quad
from retouch.imaging.framing import detector_for, frame
from retouch.imaging.quad import Quad
from retouch.manifests.samples import Sample
from retouch.outputs import results
from retouch.outputs.verify import verify_output
from rich.console import Console

from tests.helpers import tiny_yunet
from tests.helpers.datasets import painter_job, picture, write_dataset

FACE = np.array([[9.0, 7.0], [11.4, 8.0], [9.9, 8.8], [8.6, 9.4], [10.5, 10.2]])  # a little turned
SPEC = EngineSpec("tests.helpers.painters:Painter", {}, {}, batch_size=2, fit="face")


@pytest.fixture(scope="module")
def yunet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_yunet.write(tmp_path_factory.mktemp("yunet") / "tiny.onnx")


@pytest.fixture(scope="module")
def detector(yunet: Path) -> FaceDetector:
    return FaceDetector.load(str(yunet))


def crowd() -> tuple[np.ndarray, list[np.ndarray]]:
    """A dark image with three faces of one size, and their middles."""
    pixels = np.zeros((200, 250, 3), np.uint8)
    return pixels, [tiny_yunet.white_cell(pixels, column, row) for column, row in [(5, 5), (22, 5), (14, 18)]]


def face_of(pixels: np.ndarray, mask: np.ndarray | None = None, **options: Any) -> Any:
    return frame(pixels, regions.whole(pixels.shape[:2]) if mask is None else mask, 16, "face", **options)


def row_of(pixels: np.ndarray, face: np.ndarray) -> Sample:
    mask = regions.whole((pixels.shape[0], pixels.shape[1]))
    return Sample("k", "f", source=pixels, mask=mask, landmarks=face.ravel().tolist())


def quad_around(middle: np.ndarray) -> np.ndarray:
    return ffhq_quad(Landmarks(middle + tiny_yunet.LANDMARKS))


def corners(region: Any) -> np.ndarray:
    assert isinstance(region, Quad)
    return np.array(region.corners)


def test_the_rows_own_landmarks_decide_without_any_detector() -> None:
    region = face_of(picture(0), landmarks=FACE.ravel().tolist())
    assert np.array_equal(corners(region), ffhq_quad(Landmarks(FACE)))


def test_without_landmarks_the_detector_is_asked(detector: FaceDetector) -> None:
    pixels = np.zeros((200, 250, 3), np.uint8)
    middle = tiny_yunet.white_cell(pixels, 14, 9)
    assert np.allclose(corners(face_of(pixels, detector=detector)), quad_around(middle), atol=0.01)


def test_the_largest_face_is_meant_where_no_mask_says_which() -> None:
    small, large = FACE, FACE * 2 + [40, 0]
    found = Found([small, large, small + 60])
    assert np.array_equal(corners(face_of(picture(0, 100, 100), detector=found)), ffhq_quad(Landmarks(large)))


class Found(FaceDetector):
    """A detector that has looked already."""

    def __init__(self, faces: list[np.ndarray]) -> None:
        self.faces = faces

    def detect(self, pixels: np.ndarray) -> list[Landmarks]:
        return [Landmarks(face) for face in self.faces]


@pytest.mark.parametrize("meant", [0, 1, 2])
def test_of_several_faces_the_one_in_the_mask_is_meant(detector: FaceDetector, meant: int) -> None:
    pixels, middles = crowd()
    x, y = middles[meant].astype(int)
    mask = codec.mask_from_bbox([x - 15, y - 15, x + 15, y + 15], (200, 250))
    region = face_of(pixels, mask, detector=detector)
    assert np.allclose(corners(region), quad_around(middles[meant]), atol=0.1)


def test_a_mask_beside_the_middle_of_a_face_takes_the_square_that_holds_most_of_it(detector: FaceDetector) -> None:
    pixels, middles = crowd()
    x, y = middles[1].astype(int)
    hat = codec.mask_from_bbox([x - 10, y - 26, x + 10, y - 16], (200, 250))
    assert np.allclose(corners(face_of(pixels, hat, detector=detector)), quad_around(middles[1]), atol=0.1)


def test_a_mask_that_no_face_is_near_says_so(detector: FaceDetector) -> None:
    pixels, _ = crowd()
    corner = codec.mask_from_bbox([240, 190, 250, 200], (200, 250))
    with pytest.raises(NoFace, match="no face lies where the mask is white"):
        face_of(pixels, corner, detector=detector)
    with pytest.raises(NoFace, match="no face lies where the mask is white"):
        face_of(pixels, landmarks=(FACE + 5000).ravel().tolist())


def test_no_face_and_no_way_to_find_one_say_what_would_do(detector: FaceDetector) -> None:
    with pytest.raises(NoFace, match="no face was found; give the row landmarks, or use fit: resize"):
        face_of(np.zeros((50, 50, 3), np.uint8), detector=detector)
    with pytest.raises(NoFace, match=r"no landmarks, and the job's editor\.weights name no face_detector"):
        face_of(picture(0))
    with pytest.raises(LoadError, match="4 numbers"):
        face_of(picture(0), landmarks=[1, 2, 3, 4])


def test_other_fits_do_as_before_whatever_the_row_says() -> None:
    pixels = picture(0)
    mask = regions.whole(pixels.shape[:2])
    for fit in ("auto", "crop", "resize"):
        found = frame(pixels, mask, 16, fit, landmarks=[1.0])  # type: ignore[arg-type]
        assert found == regions.fit_region(mask, 16, mode=fit)  # type: ignore[arg-type]


def test_a_detector_is_read_only_where_faces_are_asked_for(yunet: Path) -> None:
    files = {"face_detector": str(yunet)}
    assert detector_for("auto", {"face_detector": "/no/such/file"}) is None
    assert detector_for("face", {}) is None
    assert isinstance(detector_for("face", files), FaceDetector)


def test_a_broken_detector_stops_the_run_before_any_row(tmp_path: Path) -> None:
    (tmp_path / "face.onnx").write_bytes(b"no network")
    with pytest.raises(WeightsError, match=r"face\.onnx is no YuNet"):
        Engine(
            EngineSpec(
                "tests.helpers.painters:Painter", {}, {"face_detector": str(tmp_path / "face.onnx")}, fit="face"
            ),
            "",
        )


def test_an_answer_carries_the_square_and_the_editor_saw_it_upright() -> None:
    (answer,) = Engine(SPEC, "cpu").edit([row_of(picture(0), FACE)])
    assert answer.failure is None
    assert np.array_equal(corners(answer.region), ffhq_quad(Landmarks(FACE)))


def test_a_run_edits_the_face_in_place_and_says_of_the_other_rows_why_not(tmp_path: Path) -> None:
    face = FACE.tolist()
    manifest = write_dataset(tmp_path, 4, landmarks=pa.array([face, None, face, [[1.0, 2.0]]]))
    job = painter_job(tmp_path, manifest, fit="face", max_failure_rate=1.0)
    assert run(job, executor="local", console=Console(file=io.StringIO())).rows == 4
    rows = sorted(results.read(job.output).to_pylist(), key=lambda row: row["label"])
    assert [row["status"] for row in rows] == ["success", "failed_to_edit", "success", "failed_to_load"]
    assert (rows[1]["error_type"], rows[1]["error_stage"]) == ("NoFace", "prepare")
    assert "give either, or use fit: resize" in rows[1]["error_message"]
    assert "2 numbers" in rows[3]["error_message"]
    mask = np.zeros((20, 24), bool)
    mask[4:12, 6:16] = True
    meant = mask & Quad.of(ffhq_quad(Landmarks(FACE))).footprint((20, 24))
    assert 0 < meant.sum() < mask.sum()  # the square cuts the mask, so that both matter
    for row in (rows[0], rows[2]):
        after, before = np.asarray(Image.open(Path(job.output) / row["output"])), picture(row["label"])
        assert np.array_equal(after[~meant], before[~meant])
        assert (after[meant] != before[meant]).any(axis=1).mean() > 0.9
        assert row["background_changed_px"] == 0
    proof = verify_output(job.output)
    assert proof.ok, proof.text()


def test_a_run_finds_faces_with_the_weights_detector(tmp_path: Path, yunet: Path) -> None:
    manifest = write_dataset(tmp_path, 2, mask=pa.array([None, None], pa.string()))
    pixels = np.zeros((200, 250, 3), np.uint8)
    middle = tiny_yunet.white_cell(pixels, 14, 9)
    Image.fromarray(pixels).save(tmp_path / "files" / "1.png")
    editor = {"name": "tests.helpers.painters:Painter", "weights": {"face_detector": str(yunet)}}
    job = painter_job(tmp_path, manifest, fit="face", editor=editor, max_failure_rate=1.0)
    run(job, executor="local", console=Console(file=io.StringIO()))
    none, found = sorted(results.read(job.output).to_pylist(), key=lambda row: row["label"])
    assert (none["status"], none["error_type"]) == ("failed_to_edit", "NoFace")
    assert found["status"] == "success"
    after = np.asarray(Image.open(Path(job.output) / found["output"]))
    covered = Quad.of(quad_around(middle)).footprint((200, 250))
    assert np.array_equal(after[~covered], pixels[~covered])
    assert (after[covered] != pixels[covered]).any(axis=1).mean() > 0.9


def test_what_composing_the_whole_region_changes_is_counted_outside_of_mask_and_square(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 1, landmarks=pa.array([FACE.ravel().tolist()]))
    job = painter_job(tmp_path, manifest, fit="face", composite="region")
    run(job, executor="local", console=Console(file=io.StringIO()))
    (row,) = results.read(job.output).to_pylist()
    after = np.asarray(Image.open(Path(job.output) / row["output"]))
    covered = Quad.of(ffhq_quad(Landmarks(FACE))).footprint((20, 24))
    mask = np.zeros((20, 24), bool)
    mask[4:12, 6:16] = True
    changed = (after != picture(0)).any(axis=2)
    assert not changed[~covered].any()
    assert row["background_changed_px"] == (changed & ~mask).sum() > 0
