import io
import re
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedded_models.domains import DOMAINS, LEARNED, in_all, only, scenes
from PIL import Image
from retouch import storage
from retouch.imaging import codec
from retouch.jobs.config import load_job
from retouch.manifests import reader
from retouch.manifests.decode import DecodeSpec, decode
from retouch.manifests.samples import Sample
from retouch.models.embedded.scenes import COLOURS, HELD_OUT, SHAPES, SIZE, TUNING, Scene, edit_task, object_prompt

from manifests import make_domains, make_photos, make_shapes
from tests import ROOT

pytestmark = pytest.mark.slow

FOLDER = ROOT / "manifests"


def committed(name: str) -> list[dict]:
    return reader.read(str(FOLDER / f"{name}.parquet")).table.to_pylist()


def decoded(row: dict) -> Sample:
    return decode({**row, "fingerprint": ""}, DecodeSpec(frozenset({"mask"})))


def opened(address: str) -> Image.Image:
    return Image.open(io.BytesIO(storage.read_bytes(address)))


@pytest.fixture(scope="module")
def remade_photos(tmp_path_factory) -> tuple[Path, pa.Table]:
    folder = tmp_path_factory.mktemp("photos")
    return folder, make_photos.make(folder)


def test_the_committed_shapes_are_what_the_maker_makes():
    stored, made = pq.read_table(FOLDER / "shapes.parquet"), make_shapes.make()

    files = ["image", "mask"]
    assert stored.drop_columns(files) == made.drop_columns(files), "run python manifests/make_shapes.py again"
    for column in files:
        for old, new in zip(stored[column].to_pylist(), made[column].to_pylist(), strict=True):
            assert old["path"] == new["path"]
            seen = codec.decode_image(old["bytes"]).pixels
            np.testing.assert_array_equal(seen, codec.decode_image(new["bytes"]).pixels)


@pytest.mark.parametrize("name", [*DOMAINS, "translate"])
def test_the_committed_domains_are_what_the_maker_makes(name: str) -> None:
    file = FOLDER / ("translate.parquet" if name == "translate" else f"domains/{name}.parquet")
    stored = pq.read_table(file)
    made = make_domains.to_edit() if name == "translate" else make_domains.to_train_on(name)

    files = [column for column in ("image", "mask") if column in made.column_names]
    assert stored.drop_columns(files) == made.drop_columns(files), "run python manifests/make_domains.py again"
    for column in files:
        for old, new in zip(stored[column].to_pylist(), made[column].to_pylist(), strict=True):
            assert old["path"] == new["path"]
            seen = codec.decode_image(old["bytes"]).pixels
            np.testing.assert_array_equal(seen, codec.decode_image(new["bytes"]).pixels)


def learned(name: str) -> list[tuple[dict, int, Scene]]:
    """Rows of a domain's manifest with the seed and scene of each."""
    rows = committed(f"domains/{name}")
    return [
        (row, *found) for row, found in zip(rows, islice(scenes(LEARNED, DOMAINS[name].holds), len(rows)), strict=True)
    ]


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domains_scenes_are_all_of_its_source_and_none_is_tuned_or_judged_by(name: str) -> None:
    rows = learned(name)

    assert len(rows) == make_domains.ROWS
    seen = {image.tobytes() for image in (decoded(row).source for row, _, _ in rows)}
    assert len(seen) == len(rows)
    for row, seed, scene in rows:
        assert LEARNED <= seed < TUNING < HELD_OUT
        assert DOMAINS[name].holds(scene)
        np.testing.assert_array_equal(decoded(row).source, scene.image)
        assert row["source_prompt"] != row["prompt"]


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domains_mask_is_white_where_the_picture_may_change_and_nowhere_else(name: str) -> None:
    for row, _, scene in learned(name):
        shape, mask = only(scene).mask, decoded(row).mask
        assert mask.shape == (SIZE, SIZE)
        near = np.stack([np.roll(shape, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]).any(axis=0)
        if DOMAINS[name].on_ground:
            assert not mask[shape].any()
            assert mask.mean() > 0.5
        else:
            assert mask[near].all()
            assert mask.sum() < 4 * shape.sum() + 200
            assert not mask.all()


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domains_texts_say_what_a_scene_shows_and_differ_in_one_word(name: str) -> None:
    for row, _, scene in learned(name):
        shown, wanted = (row[column].split()[1:] for column in ("source_prompt", "prompt"))  # but for a and an
        ((source, target),) = [pair for pair in zip(shown, wanted, strict=True) if pair[0] != pair[1]]
        assert source in (only(scene).colour, only(scene).shape, scene.ground)
        assert target not in (only(scene).colour, only(scene).shape, scene.ground)
        assert {only(scene).colour, only(scene).shape} <= set(shown)


def test_the_scenes_to_translate_were_never_learned_from_and_ask_for_every_target() -> None:
    rows = committed("translate")
    drawn = list(islice(scenes(HELD_OUT, in_all), make_domains.EDITED))

    assert len(rows) == len(DOMAINS) * len(drawn)
    for i, (seed, scene) in enumerate(drawn):
        assert seed >= HELD_OUT
        assert all(domain.holds(scene) for domain in DOMAINS.values())
        asked = rows[len(DOMAINS) * i : len(DOMAINS) * (i + 1)]
        assert [row["checkpoint"] for row in asked] == list(DOMAINS)
        for row in asked:
            np.testing.assert_array_equal(decoded(row).source, scene.image)


def test_the_shapes_were_never_drawn_in_training_and_ask_for_what_their_scene_asks():
    for row in committed("shapes"):
        assert row["scene_seed"] >= HELD_OUT
        assert row["prompt"] == object_prompt(row["wanted_shape"], row["wanted_colour"])
        assert (row["wanted_shape"], row["wanted_colour"]) == (
            edit_task(row["scene_seed"]).shape,
            edit_task(row["scene_seed"]).colour,
        )


def test_the_shapes_are_balanced():
    rows = committed("shapes")

    pairs = [(row["wanted_shape"], row["wanted_colour"]) for row in rows]
    assert len(rows) == len({row["scene_seed"] for row in rows}) == 32
    assert {pair: min(pairs.count(pair), 2) for pair in pairs}.keys() == {(s, c) for s in SHAPES for c in COLOURS}
    assert max(map(pairs.count, pairs)) <= 2
    assert [sum(shape == name for shape, _ in pairs) for name in SHAPES] == [8] * 4
    assert {sum(colour == name for _, colour in pairs) for name in COLOURS} == {5, 6}


def test_every_shape_row_decodes_at_the_networks_own_size():
    for row in committed("shapes"):
        sample = decoded(row)
        assert sample.failure is None
        assert sample.source.shape == (SIZE, SIZE, 3)
        assert 0 < sample.mask.mean() < 0.6


def test_the_committed_photos_are_what_the_maker_makes(remade_photos):
    folder, made = remade_photos

    assert pq.read_table(FOLDER / "photos.parquet") == made, "run python manifests/make_photos.py again"
    names = sorted(path.name for path in (FOLDER / "photos").iterdir())
    assert names == sorted(path.name for path in (folder / "photos").iterdir())
    for name in names:
        old, new = (codec.decode_image((where / "photos" / name).read_bytes()) for where in (FOLDER, folder))
        np.testing.assert_array_equal(old.pixels, new.pixels)
        assert (old.mode, old.format, old.orientation) == (new.mode, new.format, new.orientation)
        np.testing.assert_array_equal(old.alpha, new.alpha)


def test_every_photo_decodes_with_a_mask_where_it_was_meant_to_be():
    for row, made in zip(committed("photos"), make_photos.ROWS, strict=True):
        sample = decoded(row)
        assert sample.failure is None, sample.failure
        x0, y0, x1, y1 = made.edit
        expected = np.zeros(sample.source.shape[:2], bool)
        expected[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(sample.mask, expected)


def test_the_photos_cover_what_users_bring():
    rows = {row["key"]: row for row in committed("photos")}
    files = {key: opened(row["image"]) for key, row in rows.items()}
    sizes = {key: decoded(row).source.shape[:2] for key, row in rows.items()}

    assert {(image.format, image.mode) for image in files.values()} >= {
        ("JPEG", "RGB"),
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        ("PNG", "RGB"),
        ("PNG", "L"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("PNG", "I;16"),
    }
    assert {image.getexif().get(0x0112, 1) for image in files.values()} == {1, 6, 8}
    assert any(height > width for height, width in sizes.values())
    assert any(width > height for height, width in sizes.values())
    assert {opened(row["mask"]).mode for row in rows.values() if row["mask"]} == {"L", "1", "RGBA"}
    assert sum(row["mask"] is None and row["bbox"] is not None for row in rows.values()) == 2
    assert sum(row["mask"] is not None and row["bbox"] is None for row in rows.values()) == len(rows) - 2


def test_turned_photos_have_masks_for_the_upright_frame():
    for row in committed("photos"):
        image = opened(row["image"])
        if image.getexif().get(0x0112, 1) in (6, 8):
            assert decoded(row).source.shape[:2] == (image.width, image.height)


def test_the_sixteen_bit_photo_holds_more_than_eight_bits():
    (row,) = [row for row in committed("photos") if row["key"] == "clock-16-bit"]

    assert (np.asarray(opened(row["image"])) % 257 != 0).any()


def test_the_translucent_photo_holds_all_kinds_of_alpha():
    (row,) = [row for row in committed("photos") if row["key"] == "astronaut-rgba"]

    alpha = decoded(row).alpha
    assert (alpha.min(), alpha.max()) == (0, 255)
    assert len(np.unique(alpha)) > 100


def test_some_masks_touch_the_borders_and_all_ask_for_a_shape_that_the_embedded_models_know():
    touching = set()
    for row in committed("photos"):
        mask = decoded(row).mask
        touching |= {
            name
            for name, edge in {"top": mask[0], "left": mask[:, 0], "bottom": mask[-1], "right": mask[:, -1]}.items()
            if edge.any()
        }
        words = row["prompt"].split()
        assert words[1] in COLOURS
        assert words[2] in SHAPES
    assert touching == {"top", "left", "bottom", "right"}


def test_the_photos_are_small_enough_for_a_repository():
    assert sum(path.stat().st_size for path in (FOLDER / "photos").iterdir()) < 5e6


def test_the_readme_names_the_licence_of_every_photo_and_every_file():
    text = (FOLDER / "README.md").read_text()

    for row in make_photos.ROWS:
        assert re.search(rf"`{re.escape(row.photo)}`.*(CC0|public domain)", text), row.photo
    for name in ("shapes.parquet", "photos.parquet", "make_shapes.py", "make_photos.py"):
        assert name in text


def test_the_photos_job_reads_the_photos_manifest(monkeypatch):
    monkeypatch.chdir(ROOT)

    job = load_job("jobs/photos.yaml")

    assert reader.read(job.manifests).table.num_rows == len(make_photos.ROWS)
    assert (job.editor.weights, job.candidates) == ("embedded:shapes", 4)
    assert [metric.name for metric in job.metrics] == ["clip_score", "background_l1"]
