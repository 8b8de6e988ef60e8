"""An edit as a notebook shows it, as a file keeps it, and as storage gives it back."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from retouch.errors import LoadError, OutputError
from retouch.execution.edit import run
from retouch.imaging import codec, regions
from retouch.manifests import deferred_images
from retouch.outputs import results
from retouch.outputs.edited import Candidate, Edited, read_edited
from rich.console import Console

from tests.helpers.datasets import painter_job, picture, png, square, write_dataset
from tests.test_untrusted_text import PLANTED


class Shown(HTMLParser):
    """What a browser would make of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data

    def pictures(self) -> list[Image.Image]:
        uris = [str(found["src"]) for found in self.attributes if "src" in found]
        return [Image.open(io.BytesIO(base64.b64decode(uri.partition(";base64,")[2]))) for uri in uris]


def edited(prompt: str = "a red circle", **fields: Any) -> Edited:
    mask = square() == 255
    made = picture(0).copy()
    made[mask] = (255, 0, 0)
    candidates = [Candidate(made, 2, 11, {"distance": 0.25, "agrees": True}), Candidate(picture(0), 0, 12)]
    return replace(Edited(picture(0), mask, candidates, prompt), **fields)


def test_a_notebook_shows_source_mask_and_edits_side_by_side_with_what_was_asked_and_scored() -> None:
    shown = Shown(edited()._repr_html_())
    source, overlay, best, second = (np.asarray(picture.convert("RGB")) for picture in shown.pictures())
    assert np.array_equal(source, picture(0))
    assert np.array_equal(best, edited().image)
    assert np.array_equal(second, picture(0))
    assert overlay.shape == source.shape
    for text in ("source", "mask: 16.7%", "edit", "candidate 0", "a red circle", "distance 0.25", "seed 11"):
        assert text in shown.text


def test_an_exemplar_is_shown_and_a_mask_of_everything_is_said() -> None:
    shown = Shown(edited(exemplar=picture(5), mask=regions.whole((20, 24)))._repr_html_())
    assert len(shown.pictures()) == 5
    assert "exemplar" in shown.text
    assert "the whole image" in shown.text


@pytest.mark.parametrize("name", PLANTED)
def test_what_stands_in_a_prompt_is_shown_as_the_text_that_it_is(name: str) -> None:
    plain, planted = Shown(edited("x")._repr_html_()), Shown(edited(PLANTED[name])._repr_html_())
    assert planted.tags == plain.tags
    assert [set(found) for found in planted.attributes] == [set(found) for found in plain.attributes]
    assert PLANTED[name] in planted.text


def test_a_console_without_html_gets_a_small_picture_and_one_line() -> None:
    large = np.zeros((700, 900, 3), np.uint8)
    big = edited(source=large, mask=regions.whole((700, 900)), candidates=[Candidate(large, 0, 1)])
    assert max(Image.open(io.BytesIO(big._repr_png_())).size) == 320
    assert repr(edited()) == "Edited(24x20, 'a red circle', seed 11, distance 0.25, agrees 1; 2 candidates)"


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_what_is_saved_is_the_best_candidate_bit_for_bit(ending: str, tmp_path: Path) -> None:
    edited().save(f"{tmp_path}/edit.{ending}")
    assert np.array_equal(codec.decode_image((tmp_path / f"edit.{ending}").read_bytes()).pixels, edited().image)


def test_a_transparent_source_stays_transparent_outside_what_was_edited(tmp_path: Path) -> None:
    alpha = regions.opaque_inside(np.full((20, 24), 9, np.uint8), square() == 255)
    best = replace(edited().candidates[0], alpha=alpha)
    transparent = edited(candidates=[best])
    assert transparent.to_pil().mode == "RGBA"
    transparent.save(f"{tmp_path}/edit.png")
    assert np.array_equal(codec.decode_image((tmp_path / "edit.png").read_bytes()).alpha, alpha)


def test_a_file_of_no_format_is_refused() -> None:
    with pytest.raises(OutputError, match=r"edit\.gif does not end with \.png, \.webp, \.jpg"):
        edited().save("edit.gif")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of three rows with two candidates kept of each; the last one failed."""
    folder = tmp_path_factory.mktemp("edited")
    job = painter_job(folder, write_dataset(folder, 3, {2: "raise"}), candidates=3, keep=2, max_failure_rate=1.0)
    run(job, executor="local", console=Console(file=io.StringIO()))
    return job.output


def test_a_row_of_a_run_is_read_back_with_its_source_its_mask_and_all_that_was_kept(output: str) -> None:
    found = read_edited(output, "row-001")
    (row,) = results.read(output).filter(results.read(output)["key"].to_numpy(False) == "row-001").to_pylist()
    assert np.array_equal(found.source, picture(1))
    assert np.array_equal(found.mask, square() == 255)
    assert (found.prompt, found.seed) == ("a red circle", row["seed"])
    assert found.scores == {"distance": row["distance"], "redness": row["redness"]}
    assert [candidate.number for candidate in found.candidates] == [
        row["candidate"],
        row["runners_up"][0]["candidate"],
    ]
    assert regions.changed_outside(found.source, found.image, found.mask) == 0


def test_an_image_that_stays_in_its_manifest_is_found_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_dataset(tmp_path, 2, image=[png(picture(number)) for number in range(2)])
    job = painter_job(tmp_path, manifest)
    run(job, executor="local", console=Console(file=io.StringIO()))
    monkeypatch.setattr(deferred_images, "DEFER_FROM", 0)
    assert np.array_equal(read_edited(job.output, "row-001").source, picture(1))


def test_a_row_that_failed_or_is_not_there_says_so(output: str) -> None:
    with pytest.raises(OutputError, match="row 'row-002' has no image: failed_to_edit, EditError: this prompt cannot"):
        read_edited(output, "row-002")
    with pytest.raises(OutputError, match="has no result for row 'row-9'"):
        read_edited(output, "row-9")


def test_a_source_that_is_gone_is_the_rows_error(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 1))
    run(job, executor="local", console=Console(file=io.StringIO()))
    (tmp_path / "files" / "0.png").write_bytes(b"damaged")
    with pytest.raises(LoadError, match="image is not an image file"):
        read_edited(job.output, "row-000")
