"""The gallery in a browser, as people use it: sorted, filtered, searched, enlarged, compared, on any screen."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from retouch import storage
from retouch.outputs import results
from retouch.outputs.report import gallery as report
from retouch.outputs.report.gallery import MAX_PICTURES

from tests.outputs.report.test_gallery import CHROMIUM, carry_out, drawn, gallery, in_browser, job_of

pytestmark = [in_browser, pytest.mark.slow]
MANY = 10_000
NAMED = """e => (e.ariaLabel || e.alt || e.labels?.[0]?.innerText || e.innerText || e.firstElementChild?.alt || "")
    .trim()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


class Opened:
    """A page that is open, and what its console said."""

    def __init__(self, page: Page, file: Path) -> None:
        self.page, self.said = page, list[str]()
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.goto(f"file://{file}")

    def shown(self) -> list[str]:
        """Keys of the rows that are shown, in order."""
        return self.page.locator(".tile:visible h3 span:first-child").all_inner_texts()

    def choose(self, id_: str, label: str) -> None:
        self.page.select_option(f"#{id_}", label=label)

    def caption(self) -> str:
        return self.page.locator("#large figcaption").inner_text()


@pytest.fixture
def opened(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    made: list[Opened] = []

    def open_(file: Path) -> Opened:
        made.append(Opened(context.new_page(), file))
        return made[-1]

    yield open_
    said = [line for page in made for line in page.said]
    context.close()
    assert not said, said


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rows that went well, one of each failure."""
    folder = tmp_path_factory.mktemp("small")
    rows = [drawn(seed, wanted=f"kind-{seed}") for seed in range(6)]
    rows += [drawn(50) | {"image": b"no"}, drawn(51) | {"key": "poor-1"}, drawn(52) | {"key": "broken-1"}]
    gallery(folder, rows)
    return folder / "out/report.html"


def photograph(seed: int, side: int = 512) -> bytes:
    """A JPEG with as much in it as a photograph has: noise at all scales."""
    dice, pixels = np.random.default_rng(seed), np.zeros((side, side, 3))
    for scale in (4, 16, 64, 256, side):
        noise = dice.normal(0, 220 / scale**0.6, (scale, scale, 3))
        pixels += np.asarray([Image.fromarray(noise[..., c]).resize((side, side)) for c in range(3)]).transpose(1, 2, 0)
    out = io.BytesIO()
    Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten thousand rows of photographs, each picture used by many rows; a tenth are failures of two classes."""
    folder = tmp_path_factory.mktemp("large")
    pictures = [photograph(seed) for seed in range(24)]
    for number, data in enumerate(pictures):
        storage.write_bytes(f"{folder}/{number}.jpg", data, durable=False)
    first = {"key": "k", "image": "0.jpg", "bbox": [100.0, 100.0, 400.0, 400.0], "prompt": "p"}
    pq.write_table(pa.Table.from_pylist([first]), folder / "manifest.parquet")
    output = carry_out(job_of(folder, keep=1))
    schema = results.read(output).schema
    rows = []
    for number in range(MANY):
        failed = number % 10 == 0
        told = {"status": "failed_to_load" if number % 20 else "failed_to_edit", "error_type": f"Error{number % 3}"}
        name, data = f"images/{number % 24}.jpg", pictures[-1 - number % 24]
        storage.write_bytes(f"{output}/{name}", data, durable=False) if number < 24 else None
        made = {"status": "success", "output": name, "sha256": hashlib.sha256(data).hexdigest(), "seed": number}
        made |= {"candidate": 0, "width": 512, "height": 512, "clip_score": number * 7919 % MANY / 100}
        made |= {"background_l1": number % 13 / 10, "edit_seconds": 1.0, "background_changed_px": 0}
        rows.append({"key": f"k{number:05d}", "fingerprint": "f", "attempts": 1, **(told if failed else made)})
    for file in results.files(output):
        storage.delete(file)
    results.write_block(output, pa.Table.from_pylist(rows, schema), epoch=1)
    requests = [{**first, "key": f"k{number:05d}", "image": f"{number % 24}.jpg"} for number in range(MANY)]
    pq.write_table(pa.Table.from_pylist(requests), folder / "manifest.parquet")
    results.write_requests(output, results.read(output, ["key", "fingerprint"]), whole=True)
    return Path(report.write(output))


def test_rows_are_sorted_by_any_score_and_those_without_it_come_last(small: Path, opened: Any) -> None:
    page = opened(small)
    before = page.shown()
    page.choose("sort", "clip_score, highest first")
    scores = [
        json.loads(text)["clip_score"]
        for text in page.page.locator(".tile").evaluate_all("tiles => tiles.map((tile) => tile.dataset.scores)")
    ]
    known = [score for score in scores if score is not None]
    assert known == sorted(known, reverse=True)
    assert scores[len(known) :] == [None] * (len(before) - len(known))
    page.choose("sort", "page order")
    assert page.shown() == before


def test_rows_are_filtered_by_status_and_found_by_words_of_prompt_key_or_column(small: Path, opened: Any) -> None:
    page = opened(small)
    page.page.check("#show-failed_quality")
    assert page.shown() == ["poor-1"]
    assert "1 of 9" in page.page.inner_text("#shown")
    page.page.check("#show-all")
    page.page.fill("#find", "KIND-3")
    assert page.shown() == ["row-003"]
    page.page.fill("#find", "no such row")
    assert page.shown() == []
    page.page.fill("#find", "")
    assert len(page.shown()) == 9


def test_pictures_are_enlarged_and_the_keys_go_through_them(small: Path, opened: Any) -> None:
    page = opened(small)
    page.page.get_by_alt_text("before of row-002").click()
    assert page.caption().startswith("before · row-002 · ")
    page.page.keyboard.press("ArrowRight")
    assert page.caption().startswith("mask")
    page.page.keyboard.press("ArrowRight")
    assert page.caption().startswith("after")
    link = page.page.locator("#large a")
    assert link.is_visible()
    page.page.keyboard.press("ArrowDown")
    assert page.caption().startswith("after · row-003")
    page.page.click("#large [data-go=up]")
    assert page.caption().startswith("after · row-002")
    page.page.keyboard.press("Escape")
    assert not page.page.locator("#large").is_visible()
    page.page.get_by_alt_text("mask of row-001").focus()
    page.page.keyboard.press("Enter")
    assert page.caption().startswith("mask")
    page.page.click("#large [aria-label=close]")
    assert not page.page.locator("#large").is_visible()


def test_a_failures_link_leads_to_its_row_even_where_it_is_filtered_out(small: Path, opened: Any) -> None:
    page = opened(small)
    page.page.check("#show-success")
    assert "poor-1" not in page.shown()
    page.page.click("#failures a:has-text('poor-1')")
    assert "poor-1" in page.shown()
    tile = page.page.locator(".tile", has_text="poor-1")
    assert tile.evaluate("tile => tile.getBoundingClientRect().top < innerHeight")


def test_each_row_says_how_it_is_run_again(small: Path, opened: Any) -> None:
    page = opened(small)
    tile = page.page.locator(".tile", has_text="row-004")
    tile.locator(".again summary").click()
    assert tile.locator(".again code").inner_text() == f"retouch row {small.parent} row-004"
    tile.locator(".copy").click()
    tile.locator(".copy:not(:text('copy'))").or_(tile.locator(".copy:text('copied')")).wait_for()


@pytest.mark.parametrize(("width", "dark"), [(320, False), (390, True), (820, False), (1400, True)])
@pytest.mark.parametrize("name", ["small", "large"])
def test_nothing_runs_out_of_the_page_on_any_screen(
    request: pytest.FixtureRequest, opened: Any, name: str, width: int, dark: bool
) -> None:
    page = opened(request.getfixturevalue(name)).page
    page.emulate_media(color_scheme="dark" if dark else "light")
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut = "tiles => tiles.filter((tile) => tile.scrollWidth > tile.clientWidth + 1).length"
    assert page.locator(".tile").evaluate_all(cut) == 0
    page.locator(".figures img").first.click()
    box = page.locator("#large").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(background.split("(")[1].split(",")[0]) < 128) == dark


def test_ten_thousand_rows_make_a_page_of_under_ten_megabytes_with_the_rows_worth_a_look(
    large: Path, opened: Any
) -> None:
    assert MAX_PICTURES / 4 < large.stat().st_size < 10_000_000
    page = opened(large)
    assert len(page.shown()) == 50, "the random ones come first"
    page.choose("view", "Worst by clip_score: the 50 with the lowest clip_score")
    scores = [
        json.loads(text)["clip_score"]
        for text in page.page.locator(".tile:visible").evaluate_all("tiles => tiles.map((tile) => tile.dataset.scores)")
    ]
    assert max(scores) < 1.0
    assert len(scores) == 50
    page.choose("view", "all on this page")
    assert len(page.shown()) > 150
    assert "9000 success" in page.page.inner_text("header")


def test_runs_on_the_same_keys_are_shown_side_by_side(tmp_path: Path, opened: Any) -> None:
    gallery(tmp_path, [drawn(seed) for seed in range(4)])
    other = carry_out(job_of(tmp_path, name="another-editor", output=str(tmp_path / "other")))
    file = report.write(str(tmp_path / "out"), others=[other])
    assert file.endswith("/compare.html")
    page = opened(Path(file)).page
    assert page.locator(".tile").count() == 4
    assert page.get_by_alt_text("after, another-editor of row-002").is_visible()
    rows = page.locator("#compared tbody tr").all_inner_texts()
    assert [row.split("\t")[:2] for row in rows] == [
        ["another-editor", score] for score in ("clip_score", "background_l1", "right")
    ]
    assert all(row.endswith("50 %") for row in rows), "the same answers: neither is better"


def test_a_screen_reader_finds_names_for_all_that_can_be_used(small: Path, opened: Any) -> None:
    page = opened(small).page
    for role in ("button", "link", "combobox", "searchbox", "radio", "img"):
        for found in page.get_by_role(role).all():
            named = found.evaluate(NAMED)
            assert named, found.evaluate("e => e.outerHTML.slice(0, 200)")
