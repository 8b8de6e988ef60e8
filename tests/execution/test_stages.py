"""Decode and write: what a row's cells may be, and what ends up on disk."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from retouch import storage
from retouch.errors import LeaseLost
from retouch.execution.engine import Engine
from retouch.execution.outcomes import pack_rows, unpack_rows
from retouch.execution.specs import EngineSpec, WriteSpec
from retouch.execution.stages import decode_block, write_block
from retouch.imaging import regions
from retouch.jobs.config import ImagesSpec, MaskSpec
from retouch.manifests.decode import DecodeSpec, decode
from retouch.manifests.samples import Failure, Sample
from retouch.outputs import image_paths, lease, results
from retouch.schema import FAILED_TO_LOAD, SUCCESS, results_schema

from tests.helpers.datasets import picture, png, square

DECODE = DecodeSpec(frozenset({"mask", "prompt", "exemplar"}))
ENGINE = EngineSpec("tests.helpers.painters:Painter", {}, {}, batch_size=2)
COLUMNS = {"distance": pa.float64()}


def request(**fields: Any) -> dict[str, Any]:
    return {"key": "k", "fingerprint": "f" * 64, "image": png(picture(0)), "mask": png(square()), **fields}


def test_a_cell_may_be_a_uri_bytes_or_a_struct_of_either(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(picture(0)))
    cells: list[Any] = [
        str(path),
        path.read_bytes(),
        {"bytes": path.read_bytes(), "path": "never/read.png"},
        {"bytes": None, "path": str(path)},
    ]
    for cell in cells:
        sample = decode(request(image=cell), DECODE)
        assert sample.failure is None
        assert np.array_equal(sample.source, picture(0))  # type: ignore[arg-type]


def test_a_mask_comes_from_its_image_or_a_bbox_and_is_the_whole_image_without_either() -> None:
    by_image = decode(request(), DECODE).mask
    by_box = decode(request(mask=None, bbox=[6, 4, 16, 12]), DECODE).mask
    assert np.array_equal(by_image, square() > 0)  # type: ignore[arg-type]
    assert np.array_equal(by_box, square() > 0)  # type: ignore[arg-type]
    assert decode(request(mask=None), DECODE).mask.all()  # type: ignore[union-attr]


def test_the_jobs_mask_settings_are_followed() -> None:
    inverted = decode(request(), DecodeSpec(DECODE.inputs, MaskSpec(invert=True))).mask
    assert np.array_equal(inverted, square() == 0)  # type: ignore[arg-type]
    faint = png((square() > 0).astype(np.uint8) * 3)
    assert decode(request(mask=faint), DECODE).failure is not None
    assert decode(request(mask=faint), DecodeSpec(DECODE.inputs, MaskSpec(threshold=1))).failure is None


def test_a_rows_params_may_be_json_or_a_struct() -> None:
    assert decode(request(params='{"grey": 3}'), DECODE).params == {"grey": 3}
    assert decode(request(params={"grey": 3, "size": None}), DECODE).params == {"grey": 3}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image": None}, "the image cell is empty"),
        ({"image": b""}, "empty"),
        ({"image": b"no image at all"}, "image"),
        ({"image": "/no/such/file.png"}, "/no/such/file.png"),
        ({"mask": png(np.zeros((20, 24), np.uint8))}, "the mask is black everywhere"),
        ({"mask": None, "bbox": [100, 100, 120, 120]}, "outside"),
        ({"params": "{"}, "params is not JSON"),
        ({"params": "3"}, "params holds int, not a mapping"),
        ({"params": '[["size", 3]]'}, "params holds list, not a mapping"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"exemplar": "/no/such/exemplar.png"}, "/no/such/exemplar.png"),
    ],
)
def test_a_row_that_cannot_be_read_says_why_and_rides_on(fields: dict[str, Any], said: str) -> None:
    sample = decode(request(**fields), DECODE)
    assert sample.failure is not None
    assert sample.failure.status == FAILED_TO_LOAD
    assert said in sample.failure.message
    assert "\n" not in sample.failure.message


@dataclass(frozen=True)
class Hungry:
    """Params of an editor that needs what they say."""

    wants: str = "prompt"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self.wants})


def test_a_row_without_what_its_editor_needs_fails_before_anything_is_fetched() -> None:
    spec = replace(DECODE, needs=Hungry().needs, params_type=Hungry)
    for prompt in (None, "", " \n"):
        failure = decode(request(prompt=prompt, image="/no/such/file.png"), spec).failure
        assert failure is not None
        assert (failure.status, failure.type) == (FAILED_TO_LOAD, "LoadError")
        assert failure.message.startswith("the prompt cell is empty")
    assert decode(request(prompt="red"), spec).failure is None


def test_a_rows_own_params_decide_what_it_needs() -> None:
    spec = replace(DECODE, needs=Hungry().needs, params_type=Hungry)
    exemplar = '{"wants": "exemplar"}'
    for cell in (None, b"", {"bytes": None, "path": None}):
        assert decode(request(prompt="red", exemplar=cell, params=exemplar), spec).failure is not None
    assert decode(request(exemplar=png(picture(1)), params=exemplar), spec).failure is None
    assert decode(request(params='{"want": "exemplar"}'), spec).failure is None  # the engine says that it is wrong


def test_an_exemplar_is_read_only_where_the_editor_wants_one() -> None:
    spec = DecodeSpec(frozenset({"mask"}))
    assert decode(request(exemplar="/no/such/exemplar.png"), spec).failure is None


def run_block(tmp_path: Path, requests: list[dict[str, Any]], engine: EngineSpec = ENGINE, **spec: Any) -> pa.Table:
    """Decode, edit and write one block."""
    table = pa.Table.from_pylist(requests, schema=pa.schema([*pa.Table.from_pylist(requests).schema.remove_metadata()]))
    caller = pa.schema([field for field in table.schema if field.name == "label"])
    write = WriteSpec(str(tmp_path / "out"), results_schema(COLUMNS, caller), epoch=1, **spec)
    samples = decode_block(table, DECODE)
    answers = pack_rows(samples, Engine(engine, "cpu").edit(unpack_rows(samples)))
    return write_block(answers, write)


@pytest.mark.parametrize("image_format", ["png", "webp-lossless"])
def test_outside_the_mask_the_file_on_disk_equals_the_source(tmp_path: Path, image_format: str) -> None:
    rows = run_block(tmp_path, [request(label=3)], image_format=image_format).to_pylist()
    assert (rows[0]["status"], rows[0]["background_changed_px"], rows[0]["label"]) == (SUCCESS, 0, 3)
    data = image_paths.read_image(str(tmp_path / "out"), rows[0]["output"])
    after = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(after[square() == 0], picture(0)[square() == 0])
    assert (after[square() > 0] != picture(0)[square() > 0]).any()


def test_a_jpeg_output_says_how_many_background_pixels_it_changed(tmp_path: Path) -> None:
    (row,) = run_block(tmp_path, [request()], image_format="jpeg").to_pylist()
    assert row["status"] == SUCCESS
    assert row["background_changed_px"] > 0


def test_a_fading_edit_becomes_opaque_as_it_fades_in(tmp_path: Path) -> None:
    rgba = np.dstack([picture(0), np.zeros((20, 24), np.uint8)])
    (row,) = run_block(tmp_path, [request(image=png(rgba))], replace(ENGINE, feather=3)).to_pylist()
    after = np.asarray(Image.open(io.BytesIO((tmp_path / "out" / row["output"]).read_bytes())))
    mask = square() > 0
    assert row["background_changed_px"] == 0
    assert (after[~mask, 3] == 0).all()
    assert after[8, 6:12, 3].tolist() == [64, 128, 191, 255, 255, 255]


def test_an_alpha_channel_is_kept_outside_and_opaque_inside(tmp_path: Path) -> None:
    alpha = np.full((20, 24), 40, np.uint8)
    rgba = np.dstack([picture(0), alpha])
    (row,) = run_block(tmp_path, [request(image=png(rgba))]).to_pylist()
    after = np.asarray(Image.open(io.BytesIO(image_paths.read_image(str(tmp_path / "out"), row["output"]))))
    assert after.shape[2] == 4
    assert np.array_equal(after[..., 3], np.where(square() > 0, 255, 40))
    assert np.array_equal(after[..., :3][square() == 0], picture(0)[square() == 0])


def test_a_failed_row_has_a_results_row_and_no_image(tmp_path: Path) -> None:
    rows = run_block(tmp_path, [request(), request(key="bad", image=b"junk")]).to_pylist()
    assert [row["status"] for row in rows] == [SUCCESS, FAILED_TO_LOAD]
    assert rows[1]["output"] is None
    assert (rows[1]["error_stage"], rows[1]["error_type"]) == ("decode", "LoadError")
    assert results.read(str(tmp_path / "out")).num_rows == 2


def test_writing_a_block_again_leaves_the_same_files(tmp_path: Path) -> None:
    def everything() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in (tmp_path / "out").rglob("*.*") if p.is_file()}

    run_block(tmp_path, [request(), request(key="bad", image=b"junk")])
    first = everything()
    again = run_block(tmp_path, [request(), request(key="bad", image=b"junk")])
    # Times differ between two runs of an edit; names, images and the number of files do not.
    assert set(everything()) == set(first)
    assert {p: d for p, d in everything().items() if p.endswith("png")} == {
        p: d for p, d in first.items() if p.endswith("png")
    }
    assert again.num_rows == 2


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(["good", "junk", "raise"]), min_size=1, max_size=6))
def test_a_block_gives_one_row_a_request_whatever_fails(kinds: list[str]) -> None:
    import tempfile

    made = {"good": {}, "junk": {"image": b"junk"}, "raise": {"prompt": "raise"}}
    requests = [request(key=str(i), **{"prompt": "", **made[kind]}) for i, kind in enumerate(kinds)]
    with tempfile.TemporaryDirectory() as folder:
        rows = run_block(Path(folder), requests).to_pylist()
    assert [row["key"] for row in rows] == [str(i) for i in range(len(kinds))]
    assert [row["status"] == SUCCESS for row in rows] == [kind == "good" for kind in kinds]


def test_travelling_rows_keep_the_callers_columns_and_their_order() -> None:
    table = pa.table({"label": [1, 2]})
    carried = pack_rows(table, [Sample("a", "1"), Sample("b", "2")])
    assert carried["label"].to_pylist() == [1, 2]
    assert [sample.key for sample in unpack_rows(carried)] == ["a", "b"]


def test_params_with_unusual_values_reach_the_sample_as_written() -> None:
    values = {"grey": 3, "nested": {"a": [1, 2.5, None]}, "text": "é"}
    assert decode(request(params=json.dumps(values)), DECODE).params == values


def test_a_region_smaller_than_the_network_is_scaled_up_and_back() -> None:
    mask = square() > 0
    region = regions.fit_region(mask, 64)
    seen = region.extract(picture(0), (64, 64))
    back = region.composite(picture(0), seen, mask)
    assert regions.changed_outside(picture(0), back, mask) == 0


def test_composing_the_whole_region_shows_what_the_network_did_to_the_background(tmp_path: Path) -> None:
    (row,) = run_block(tmp_path, [request()], composite="region").to_pylist()
    assert row["status"] == SUCCESS
    assert row["background_changed_px"] > 0  # the painter works at 16 px: its region comes back scaled


def test_a_run_that_was_taken_over_puts_nothing_down(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    with lease.held(output, after=1), pytest.raises(LeaseLost):
        run_block(tmp_path, [request()])
    assert not results.files(output)
    assert not storage.list_files(f"{output}/images")


def test_results_that_were_put_down_just_as_the_lease_was_lost_are_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, put = str(tmp_path / "out"), results.write_block

    def put_and_lose(*args: Any, **options: Any) -> str:
        path = put(*args, **options)
        storage.write_bytes(f"{output}/lease/000002.json", b"{}")  # another run's claim
        return path

    monkeypatch.setattr(results, "write_block", put_and_lose)
    with pytest.raises(LeaseLost):
        run_block(tmp_path, [request()])
    assert not results.files(output)


def test_a_file_that_never_comes_fails_its_row_after_the_deadline_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, never = storage.read_bytes, threading.Event()
    good_file = str(tmp_path / "good.png")
    storage.write_bytes(good_file, png(picture(0)))
    monkeypatch.setattr(storage, "read_bytes", lambda uri: (never.wait(), b"")[1] if "slow-store" in uri else read(uri))
    table = pa.Table.from_pylist(
        [request(key="a", image={"path": "slow-store.png"}), request(key="b", image={"path": good_file})]
    )
    late, good = unpack_rows(decode_block(table, replace(DECODE, seconds=0.3)))
    never.set()
    assert late.failure == Failure(
        "failed_to_load", "DeadlineExceeded", "not fetched and decoded after 0.3 s", "decode"
    )
    assert good.failure is None


def test_a_row_that_killed_the_workers_that_decoded_it_is_not_decoded_again(tmp_path: Path) -> None:
    spec = replace(DECODE, output=str(tmp_path))
    note = {"keys": ["a"], "alone": 3, "overdue": False}
    storage.write_bytes(f"{tmp_path}/in_flight/decode-x.json", json.dumps(note).encode())
    lost, good = unpack_rows(decode_block(pa.Table.from_pylist([request(key="a"), request(key="b")]), spec))
    assert (lost.failure.status, lost.failure.type, lost.failure.stage) == ("failed_to_load", "WorkerLost", "decode")
    assert good.failure is None


@pytest.mark.slow
@pytest.mark.long
def test_a_photograph_of_108_megapixels_is_edited_at_its_size(tmp_path: Path) -> None:
    image = Image.new("L", (12_000, 9_000), 90)
    image.paste(200, (5000, 4000, 5200, 4200))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    row = {"key": "a", "fingerprint": "f", "image": file.getvalue(), "bbox": [5000.0, 4000.0, 5200.0, 4200.0]}
    refused = decode(row, DECODE).failure
    assert refused is not None
    assert "set images: {max_pixels: 108000000} in the job" in refused.message
    sample = decode(row, replace(DECODE, images=ImagesSpec(max_pixels=108_000_000)))
    outcomes = Engine(ENGINE, "cpu").edit([sample])
    write = WriteSpec(str(tmp_path / "out"), results_schema(COLUMNS, pa.schema([])), epoch=1)
    (written,) = write_block(pack_rows(pa.table({"x": [0]}).select([]), outcomes), write).to_pylist()
    assert (written["status"], written["error_message"], written["background_changed_px"]) == (SUCCESS, None, 0)
    assert (written["width"], written["height"]) == (12_000, 9_000)
