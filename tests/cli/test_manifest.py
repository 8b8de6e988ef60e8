"""``retouch manifest`` as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_plan import ROOT, said
from tests.helpers.datasets import square
from tests.manifests.test_from_folder import fill


def test_unmatched_files_are_named_and_end_with_1_until_they_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = fill(f"{tmp_path}/images", *(f"{number}.png" for number in range(9)))
    masks = fill(f"{tmp_path}/masks", "0.png", "x.png", pixels=square())
    command = ["manifest", "from-folder", images, f"{tmp_path}/rows.parquet", "--masks", masks, "--prompt", "a cat"]
    code, out, err = said(capsys, *command)
    assert (code, out) == (1, "")
    assert f"8 images without mask: {images}/1.png" in err
    assert "… (3 more)" in err
    assert f"1 masks without image: {masks}/x.png" in err
    assert "nothing was written" in err
    code, out, err = said(capsys, *command, "--allow-unmatched")
    assert code == 0
    assert f"{tmp_path}/rows.parquet: 1 rows" in out
    assert "8 images without mask" in err
    code, out, _ = said(capsys, "manifest", "show", f"{tmp_path}/rows.parquet", "--json")
    found = json.loads(out)
    assert (code, found["rows"]) == (0, 1)
    assert [column["name"] for column in found["columns"]] == ["key", "image", "mask", "prompt"]
    code, out, _ = said(capsys, "check", f"{tmp_path}/rows.parquet")
    assert code == 0, out


def test_a_box_for_all_rows_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = fill(f"{tmp_path}/images", "a.png")
    command = ["manifest", "from-folder", images, f"{tmp_path}/elsewhere/rows.parquet", "--bbox"]
    for wrong in ("1,2,3", "a,b,c,d", "10,0,5,5", "0,0,0,9"):
        code, _, err = said(capsys, *command, wrong)
        assert code == 2
        assert "is not a box; give x0,y0,x1,y1 in pixels" in err
    code, out, _ = said(capsys, *command, "1,2,9,8")
    assert code == 0
    assert "some addresses are absolute" in out


def test_show_and_columns_speak_to_people(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "manifest", "show", str(ROOT / "manifests/photos.parquet"), "--rows", "1")
    assert code == 0
    assert "12 rows in 1 file" in out
    assert "row 0:" in out
    assert "row 1:" not in out
    code, out, _ = said(capsys, "manifest", "columns")
    assert code == 0
    assert "| `landmarks` |" in out
    code, _, err = said(capsys, "manifest", "show", "nowhere.parquet")
    assert code == 2
    assert err.count("\n") == 1
