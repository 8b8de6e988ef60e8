import io

import numpy as np
import pytest
from PIL import Image
from retouch import storage
from retouch.imaging import codec
from retouch.manifests.decode import recorded_spec
from retouch.outputs.report.tiles import Tile, image_reader, make_tile

SOURCE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
MASK = np.zeros((32, 32), bool)
MASK[8:24, 8:24] = True


def file(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def request(**more: object) -> dict[str, object]:
    return {"key": "a", "image": file(SOURCE), "mask": file(MASK.astype(np.uint8) * 255), "prompt": "p", **more}


def tile(folder, edited: np.ndarray | None = None, recorded: int = 0, canvas=None, **more: object) -> Tile:
    """The tile of a row whose output holds ``edited``."""
    if edited is not None:
        storage.write_bytes(f"{folder}/images/a b.png", codec.encode(edited))
    answer = {
        "key": "a",
        "status": "success" if edited is not None else "failed_to_load",
        "output": None if edited is None else "images/a b.png",
        "background_changed_px": recorded,
        "runners_up": None,
        "score": float("nan"),
        "grade": "good",
        "ground": None,
    }
    asked = request(**more)
    spec = recorded_spec({"canvas": canvas}, frozenset({"exemplar"}))
    how = {"how": spec, "missing": "?", "scores": ["score", "grade"], "columns": ["ground"]}
    return make_tile(image_reader(str(folder), [answer]), answer, asked, **how)


def names(made: Tile) -> list[str]:
    return [figure.name for figure in made.figures]


def test_a_tile_has_before_mask_and_after(tmp_path):
    made = tile(tmp_path, SOURCE)

    assert names(made) == ["before", "mask", "after"]
    assert made.figures[1].note == "25.0%"
    assert made.figures[2].href == "images/a%20b.png"
    assert made.notes == []


def test_a_change_outside_the_mask_is_shown(tmp_path):
    edited = SOURCE.copy()
    edited[0, 0] ^= 8

    made = tile(tmp_path, edited, recorded=1)

    assert names(made) == ["before", "mask", "after", "changed outside"]
    assert made.figures[-1].note == "white: 8 of 255 levels"
    assert made.notes == []


def test_a_change_since_the_run_is_said(tmp_path):
    edited = SOURCE.copy()
    edited[0, :3] ^= 8

    made = tile(tmp_path, edited, recorded=0)

    assert made.notes == ["source, mask or output has changed since the run: 3 px outside the mask differ now"]


def test_a_source_of_another_size_than_the_output_is_said(tmp_path):
    made = tile(tmp_path, np.zeros((16, 20, 3), np.uint8))

    assert made.notes == ["the source is now 32x32, the output 20x16"]


@pytest.mark.parametrize("mask", [b"no image", file(np.zeros((32, 32), np.uint8))])
def test_a_bad_mask_leaves_the_image_to_be_seen(tmp_path, mask):
    made = tile(tmp_path, mask=mask)

    assert made.figures[0].picture is not None
    assert made.figures[1].picture is None
    assert made.figures[1].note.startswith("not usable: ")


def test_a_row_without_a_mask_says_that_all_is_edited(tmp_path):
    made = tile(tmp_path, SOURCE, mask=None)

    assert (made.figures[1].name, made.figures[1].note) == ("mask", "none: the whole image is edited")


def test_an_exemplar_is_shown(tmp_path):
    assert names(tile(tmp_path, SOURCE, exemplar=file(SOURCE))) == ["before", "exemplar", "mask", "after"]


def test_scores_that_are_no_finite_numbers_do_not_order_rows(tmp_path):
    made = tile(tmp_path, SOURCE)

    assert made.scores.keys() == {"score", "grade"}
    assert made.sortable == {"score": None}


def test_the_callers_empty_columns_are_left_out(tmp_path):
    assert tile(tmp_path, SOURCE).columns == {}


def test_a_canvas_is_shown_around_the_image_as_it_came(tmp_path):
    made = tile(tmp_path, np.pad(SOURCE, ((0, 0), (16, 0), (0, 0))), canvas={"left": 16}, mask=None)

    assert names(made) == ["before", "canvas", "after"]
    sizes = [(figure.picture.width, figure.picture.height) for figure in made.figures if figure.picture]
    assert sizes[0][0] == sizes[0][1]
    assert sizes[1] == sizes[2]
    assert made.figures[1].note == "33.3%"
    assert made.notes == []
