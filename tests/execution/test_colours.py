"""Images with a profile or transparency through a whole run: what networks see, what is written, what is shown."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import retouch
from PIL import Image
from retouch.execution import check
from retouch.execution.edit import run
from retouch.imaging import codec, colour
from retouch.manifests.decode import DecodeSpec, decode
from retouch.outputs import image_paths, results
from retouch.outputs.export.dataset import ExportRequest, export_dataset
from retouch.schema import Batch, EditResult
from rich.console import Console

from tests.helpers import profiles
from tests.helpers.datasets import painter_job, png
from tests.helpers.painters import Painter

MASK = np.zeros((36, 48), bool)
MASK[10:26, 12:40] = True
SMOOTH = np.stack(np.meshgrid(*[np.linspace(20, 220, 12)] * 3), -1).reshape(36, 48, 3).astype(np.uint8)
PAINT = (200, 60, 90)  # inside every gamut


class Onlooker(Painter):
    """An editor that paints one colour and keeps what it saw."""

    inputs: ClassVar[frozenset[str]] = frozenset({"mask", "prompt", "exemplar", "control"})
    columns: ClassVar[Mapping[str, str]] = {}
    rank_by: ClassVar[str | None] = None
    seen: ClassVar[list[Batch]] = []

    def sizes(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        Onlooker.seen.append(batch)
        return [
            EditResult(np.where(m[..., None], np.uint8(PAINT), i)) for i, m in zip(batch.image, batch.mask, strict=True)
        ]


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


RGB = Image.fromarray(SMOOTH)
INKS = Image.merge("CMYK", [Image.new("L", RGB.size, value) for value in (255, 0, 255, 0)])
FILES = {
    "adobe": saved(RGB, "TIFF", icc_profile=profiles.ADOBE),
    "broken": saved(RGB, "PNG", icc_profile=b"no profile"),
    "grey": saved(RGB.convert("L"), "PNG", icc_profile=profiles.LINEAR_GREY),
    "inks": saved(INKS, "TIFF", icc_profile=profiles.CMYK),
    "p3": saved(RGB, "JPEG", quality=98, subsampling=0, icc_profile=profiles.P3),
    "plain": saved(RGB, "PNG"),
    "prophoto": saved(RGB, "WEBP", lossless=True, icc_profile=profiles.PROPHOTO),
}
MEANING = {  # key to primaries and gamma
    "adobe": (profiles.ADOBE_PRIMARIES, 2.2),
    "grey": (profiles.SRGB_PRIMARIES, 1.0),
    "p3": (profiles.P3_PRIMARIES, 2.2),
    "prophoto": (profiles.PROPHOTO_PRIMARIES, 1.8),
}
CONVERTED = {"grey": "grey: Linear grey (test)", "inks": "CMYK: Neutral inks (test)"}


def edit(folder: Path, image_format: str) -> str:
    """Return the output of a run over ``FILES``, with whole images as what the network sees."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"key": list(FILES), "image": list(FILES.values()), "mask": [png(MASK.astype(np.uint8) * 255)] * len(FILES)}
    pq.write_table(pa.table({**rows, "prompt": ["a red circle"] * len(FILES)}), folder / "rows.parquet")
    job = painter_job(
        folder,
        folder / "rows.parquet",
        editor={"name": f"{__name__}:Onlooker", "weights": {}},
        metrics=[],
        fit="resize",
        image_format=image_format,
        ray={"batch_size": 1},
    )
    run(job, executor="local", console=Console(file=io.StringIO()))
    return job.output


@pytest.fixture(scope="module", params=list(codec.EXTENSIONS))
def output(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return edit(tmp_path_factory.mktemp("run"), request.param)


def files_of(output: str) -> dict[str, bytes]:
    rows = results.read(output, ["key", "output"]).to_pylist()
    return {row["key"]: image_paths.read_image(output, row["output"]) for row in rows}


def test_a_written_file_has_the_sources_values_and_profile_outside_the_mask(output: str) -> None:
    rows = {row["key"]: row for row in results.read(output).to_pylist()}
    for key, data in files_of(output).items():
        before, after = codec.decode_image(FILES[key]), codec.decode_image(data)
        exact = after.format != "JPEG"
        assert after.profile == before.profile
        assert (after.profile is None) == (key in {"broken", "grey", "inks", "plain"})
        away = np.abs(after.pixels.astype(int) - before.pixels)[~MASK]
        assert away.max() == 0 if exact else away.mean() < 2, key
        assert rows[key]["converted_from"] == CONVERTED.get(key)
        assert not exact or rows[key]["background_changed_px"] == 0


def test_an_edit_is_seen_in_the_colour_that_the_network_painted(output: str) -> None:
    for key, data in files_of(output).items():
        middle = codec.decode_image(data).as_seen()[14:22, 16:36].astype(int)
        assert np.abs(middle - PAINT).mean() <= 2, key


def test_the_network_sees_srgb(tmp_path: Path) -> None:
    Onlooker.seen.clear()
    edit(tmp_path, "png")
    seen = dict(zip(FILES, np.concatenate([batch.image for batch in Onlooker.seen]), strict=True))
    for key, (primaries, gamma) in MEANING.items():
        stored = np.asarray(Image.open(io.BytesIO(FILES[key])).convert("RGB"))
        away = np.abs(seen[key] - profiles.as_srgb(stored, primaries, gamma))
        assert (away.max() < 2, np.quantile(away, 0.99) <= 1) == (True, True), key
    assert np.array_equal(seen["plain"], SMOOTH)
    assert np.array_equal(seen["broken"], SMOOTH)


def test_a_converted_grey_is_seen_as_before_outside_the_mask(tmp_path: Path) -> None:
    after = codec.decode_image(files_of(edit(tmp_path, "png"))["grey"]).pixels[~MASK][:, 0]
    light = (np.asarray(Image.open(io.BytesIO(FILES["grey"])))[~MASK] / 255.0, srgb_light(after))
    lightness = [np.where(y > 216 / 24389, 116 * np.cbrt(y) - 16, y * 24389 / 27) for y in light]
    assert np.abs(lightness[0] - lightness[1]).mean() < 0.1  # of greys, CIEDE2000 is at most that of L*


def srgb_light(values: np.ndarray) -> np.ndarray:
    values = values / 255.0
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def test_a_check_hints_at_profiles_that_are_ignored_or_converted(tmp_path: Path) -> None:
    manifest = f"{edit(tmp_path, 'png')}/../rows.parquet"
    assert dict(check.check(manifest).hints) == {"profile-ignored": ("broken",), "profile-converted": ("grey", "inks")}


def test_exported_pairs_carry_the_profile(output: str, tmp_path: Path) -> None:
    done = export_dataset(ExportRequest(output, str(tmp_path / "set"), "parquet", "pairs"))
    assert (done.rows, done.skipped) == (len(FILES), ())
    (part,) = (tmp_path / "set/data").glob("*.parquet")
    for row in pq.read_table(part).to_pylist():
        source, edited = (codec.decode_image(row[name]["bytes"]) for name in ("original_image", "edited_image"))
        wanted = codec.decode_image(FILES[row["key"]])
        assert source.profile == edited.profile == wanted.profile
        assert np.array_equal(source.pixels, wanted.pixels)


def test_from_python_the_profile_comes_along_and_pictures_are_in_srgb(tmp_path: Path) -> None:
    output = edit(tmp_path, "png")
    editor = retouch.load_editor(f"{__name__}:Onlooker", fit="resize")
    edited = editor(FILES["p3"], MASK, "a red circle")
    assert edited.profile == edited.candidates[0].profile == profiles.P3
    edited.save(str(tmp_path / "edit.png"))
    assert (tmp_path / "edit.png").read_bytes() == files_of(output)["p3"]
    again = editor(Image.open(io.BytesIO(saved(edited.to_pil(), "PNG"))), MASK)
    assert (again.profile, again.source.tolist()) == (profiles.P3, edited.image.tolist())
    read = retouch.read_edited(output, "p3")
    assert read.profile == read.candidates[0].profile == profiles.P3
    shown = np.asarray(Image.open(io.BytesIO(read._repr_png_())).convert("RGB"))
    assert np.array_equal(shown, colour.to_srgb(edited.image, profiles.P3))
    uri = read._repr_html_().partition('src="')[2].partition('"')[0]
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))
    assert np.abs(first.astype(int) - colour.to_srgb(edited.source, profiles.P3)).mean() < 4


def with_hidden(value: int) -> bytes:
    """Return an image whose upper half is fully transparent, of this colour there."""
    pixels, alpha = SMOOTH.copy(), np.full(SMOOTH.shape[:2], 255, np.uint8)
    pixels[:18], alpha[:18] = value, 0
    return png(np.dstack([pixels, alpha]))


@pytest.mark.parametrize("mask", [{}, {"feather": 6}])
def test_colours_that_nobody_sees_decide_no_pixel_of_an_edit(mask: dict[str, Any]) -> None:
    editor = retouch.load_editor(f"{__name__}:Onlooker", fit="resize", mask=mask)
    Onlooker.seen.clear()
    cells = {value: with_hidden(value) for value in (0, 77)}
    edits = {value: editor(cell, MASK, "x", exemplar=cell, control=cell) for value, cell in cells.items()}
    one, other = Onlooker.seen
    for name in ("image", "exemplar", "control"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert (one.image[0, :18] == 255).all()
    assert (one.exemplar[0, :4] == 255).all()  # type: ignore[index]
    assert (one.control[0, :18] == 0).all()  # type: ignore[index]
    assert np.array_equal(edits[0].image[MASK], edits[77].image[MASK])
    for value, edited in edits.items():
        assert np.array_equal(edited.image[~MASK], edited.source[~MASK])
        assert (edited.source[:18] == value).all()
        assert edited.candidates[0].alpha is not None
        assert (edited.candidates[0].alpha[~MASK][:18] == 0).all()


def test_an_exemplar_and_a_control_image_are_read_in_srgb() -> None:
    cell = saved(RGB, "PNG", icc_profile=profiles.ADOBE)
    request = {"key": "a", "fingerprint": "f", "image": cell, "exemplar": cell, "control": cell}
    sample = decode(request, DecodeSpec(Onlooker.inputs))
    assert np.array_equal(sample.source, SMOOTH)  # type: ignore[arg-type]
    for seen in (sample.exemplar, sample.control):
        assert np.array_equal(seen, sample.as_seen())  # type: ignore[arg-type]
