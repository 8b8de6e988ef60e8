"""Several addresses of one file: the first that is reachable serves it, and a pin makes them one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from retouch import storage
from retouch.errors import StorageError, WeightsError
from retouch.execution import plan
from retouch.models import weights
from retouch.models.weights import fetch
from retouch.storage import downloads

from tests.helpers.datasets import painter_job, write_dataset
from tests.helpers.web_files import Web, serving

PART = 1000
CONTENT = os.urandom(PART * 10)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "PART", PART)
    monkeypatch.setattr(downloads, "PARALLEL_PARTS", 1)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving({"/net.pt": CONTENT}) as found:
        yield found


def test_the_first_address_that_can_be_had_serves_and_the_others_are_named(
    place: str, web: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = storage.join(place, "net.pt"), f"{web.url}/net.pt"
    found = weights.resolve({"unet": [first, second]})
    assert Path(found.files["unet"]).read_bytes() == CONTENT
    assert (
        f"weights {first} cannot be fetched, trying the next address: no weights at {first}" in capsys.readouterr().err
    )
    storage.write_bytes(first, CONTENT)
    web.asked = []
    again = weights.resolve({"unet": [first, second]})
    assert not web.asked
    assert again.digest == found.digest  # which of them served it changes nothing


def test_where_none_can_be_had_each_is_named(web: Web, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as error:
        weights.resolve({"unet": [str(tmp_path / "none.pt"), f"{web.url}/none.pt"]})
    assert "none of 2 addresses can be fetched: no weights at " in str(error.value)
    assert f"{web.url}/none.pt" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pin_on_one_address_holds_for_all_and_a_mirror_of_other_bytes_is_passed_over(web: Web) -> None:
    web.files["/old.pt"] = b"old" * PART
    found = weights.resolve({"unet": [f"{web.url}/old.pt", f"{web.url}/net.pt#sha256={SHA256}"]})
    assert found.sha256["unet"] == SHA256
    with pytest.raises(WeightsError, match="addresses with 2 different pins"):
        weights.resolve({"unet": [f"{web.url}/a#sha256={'0' * 64}", f"{web.url}/b#sha256={SHA256}"]})


def test_what_one_mirror_began_another_brings_to_its_end(web: Web) -> None:
    with serving({"/copy/net.pt": CONTENT}) as other:
        web.refuse_after = 4
        pinned = [f"{web.url}/net.pt#sha256={SHA256}", f"{other.url}/copy/net.pt"]
        found = weights.resolve({"unet": pinned})
        assert Path(found.files["unet"]).read_bytes() == CONTENT
        assert len(web.asked) == 4
        assert min(first for first, _ in other.asked) == 4 * PART
        web.refuse_after = other.refuse_after = 0  # it is here now, whichever of them is asked
        assert weights.resolve({"unet": pinned[::-1]}) == found


def test_a_file_that_was_broken_off_goes_on_in_the_next_run(web: Web) -> None:
    web.refuse_after = 3
    with pytest.raises(WeightsError):
        weights.resolve(f"{web.url}/net.pt")
    web.refuse_after, web.asked = None, []
    assert Path(weights.resolve(f"{web.url}/net.pt").files["unet"]).read_bytes() == CONTENT
    assert min(first for first, _ in web.asked) == 3 * PART


def test_a_folder_has_one_address(web: Web) -> None:
    with pytest.raises(WeightsError, match="role family is a folder and has 2 addresses"):
        weights.resolve({"family": ["embedded:shapes", f"{web.url}/shapes"]})


def test_what_workers_load_is_pinned_to_what_was_planned(tmp_path: Path, web: Web) -> None:
    editor = {
        "name": "tests.helpers.painters:Painter",
        "weights": {"unet": [f"{web.url}/none.pt", f"{web.url}/net.pt"]},
    }
    job = painter_job(tmp_path, write_dataset(tmp_path, 1), editor=editor)
    pinned = plan.make_plan(job).engine.weights
    assert pinned == {"unet": [f"{web.url}/none.pt#sha256={SHA256}", f"{web.url}/net.pt"]}
    web.files["/net.pt"] = CONTENT[::-1]
    with pytest.raises(WeightsError, match="the job pins"):
        weights.resolve({"unet": [f"{web.url}/net.pt#sha256={SHA256}"]})


def test_the_json_sidecar_of_a_pinned_file_comes_with_it(web: Web) -> None:
    web.files["/net.json"] = b"[1]"
    found = weights.resolve(f"{web.url}/net.pt#sha256={SHA256}")
    assert Path(found.files["unet"]).with_suffix(".json").read_bytes() == b"[1]"
    web.files["/net.json"] = b"[2]"
    assert weights.resolve(f"{web.url}/net.pt#sha256={SHA256}").sha256["unet.json"] != found.sha256["unet.json"]


def test_an_address_without_a_mirror_keeps_its_own_error(web: Web) -> None:
    with pytest.raises(StorageError):
        fetch.one_file("nosuch://x")
