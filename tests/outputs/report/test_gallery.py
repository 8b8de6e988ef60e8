import base64
import hashlib
import html.parser
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from retouch import storage
from retouch.errors import OutputError
from retouch.execution import stages
from retouch.execution.outcomes import KeptCandidate, Outcome, pack_rows, unpack_rows
from retouch.execution.plan import Plan, engine_spec, open_run
from retouch.execution.specs import WriteSpec
from retouch.imaging.regions import Region
from retouch.jobs.config import EditJob
from retouch.manifests import reader
from retouch.manifests.decode import DecodeSpec
from retouch.manifests.fingerprints import with_fingerprints
from retouch.manifests.samples import Failure, Sample
from retouch.models.embedded.scenes import draw_scene, edit_task
from retouch.outputs import results
from retouch.outputs.report import gallery as report
from retouch.outputs.run_record import SUMMARY_FILE
from retouch.schema import FAILED_QUALITY, FAILED_TO_EDIT, results_schema

NASTY = """<script>alert("x")</script> & 'quotes' "too" \u202e</p>"""


def png(pixels: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def drawn(seed: int, **more: Any) -> dict[str, Any]:
    """A manifest row that asks for a shape in a drawn scene."""
    task = edit_task(seed)
    mask = task.mask.astype(np.uint8) * 255
    return {"key": f"row-{seed:03d}", "image": png(task.scene.image), "mask": png(mask), "prompt": task.prompt, **more}


def answer(sample: Sample) -> Outcome:
    """What an engine could say: another scene's pixels, with scores that follow from the key."""
    if sample.failure is not None or sample.source is None:
        return Outcome(sample, failure=sample.failure)
    if "broken" in sample.key:
        return Outcome(sample, failure=Failure(FAILED_TO_EDIT, "EditError", "the network gave NaN", "edit"), attempts=2)
    number = sum(sample.key.encode())
    edited = draw_scene(number, 32, 1).image
    height, width = sample.source.shape[:2]
    kept = [
        KeptCandidate(
            k, number + k, edited, {"clip_score": number % 17 / 10 + k, "background_l1": 0.25, "right": number % 3 > 0}
        )
        for k in (1, 0)
    ]
    poor = Failure(FAILED_QUALITY, "QualityError", "clip_score 0.1 < 0.5", "score") if "poor" in sample.key else None
    return Outcome(sample, Region(0, 0, width, height), kept, poor, 4, 0.5)


def job_of(folder: Path, **more: Any) -> EditJob:
    fields: dict[str, Any] = {
        "name": "gallery-test",
        "manifest": str(folder / "manifest.parquet"),
        "output": str(folder / "out"),
        "editor": {"name": "blended_diffusion", "weights": "embedded:shapes", "params": {"timesteps": 50}},
        "candidates": 4,
        "keep": 2,
    }
    return EditJob.model_validate({**fields, **more})


def carry_out(job: EditJob, finish: bool = True) -> str:
    """Everything that a run leaves behind, written by what writes it in a run; only the pixels come from ``answer``."""
    table = with_fingerprints(reader.read(job.manifests).table, {"made": "by a test"})
    caller = pa.schema([field for field in table.schema if field.name in ("wanted", "ground", "input_width")])
    scores = {"clip_score": pa.float64(), "background_l1": pa.float64(), "right": pa.bool_()}
    plan = Plan(
        job=job,
        engine=engine_spec(job),
        decode=DecodeSpec(frozenset({"mask", "prompt", "exemplar"}), job.mask),
        write=WriteSpec(job.output, results_schema(scores, caller), 1, job.image_format, job.sink),
        todo=table,
        requests=table.select(["key", "fingerprint"]),
        weights={"unet": "ab" * 32, "clip": "cd" * 32},
    )
    open_run(plan)
    for block in plan.blocks(actors=1):
        decoded = stages.decode_block(block, plan.decode)
        answers = [answer(sample) for sample in unpack_rows(decoded)]
        kept = [replace(each, kept=each.kept[: job.keep]) for each in answers]
        stages.write_block(pack_rows(decoded, kept), plan.write)
    if finish:
        results.compact(job.output)
        summary = {"answered_now": plan.total, "seconds": 12.5, "images_per_second": 2.5, "edit_seconds": 10.0}
        storage.write_bytes(storage.join(job.output, SUMMARY_FILE), json.dumps(summary).encode())
    return job.output


def gallery(folder: Path, rows: list[dict[str, Any]], **more: Any) -> str:
    """The page of a run over these rows."""
    pq.write_table(pa.Table.from_pylist(rows), folder / "manifest.parquet")
    return page_of(carry_out(job_of(folder, **more)))


def page_of(output: str) -> str:
    return Path(report.write(output)).read_text()


class Page(html.parser.HTMLParser):
    """What a browser would see: elements with their attributes, and the text of each element of interest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.labels: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "label":
            self.labels.append("")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.labels:
            self.labels[-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def picture(self, alt: str) -> np.ndarray:
        """Pixels of the picture with this description."""
        return np.asarray(Image.open(io.BytesIO(self.data(alt))).convert("RGB"))

    def data(self, alt: str) -> bytes:
        (source,) = [image["src"] for image in self.all("img") if image["alt"] == alt]
        return base64.b64decode(source.partition("base64,")[2])

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def test_a_small_run_is_shown_whole(tmp_path):
    page = Page(gallery(tmp_path, [drawn(seed) for seed in range(5)]))

    tiles = [tile for tile in page.all("article") if tile["data-status"] == "success"]
    assert len(tiles) == 5
    for seed in range(5):
        assert f"row-{seed:03d}" in page.text
        assert edit_task(seed).prompt in page.text
    assert "5 rows = 5 success" in page.text
    assert "2.5 images/s" in page.text
    assert f"sha256:{'ab' * 32}" in page.text


def test_the_pictures_are_the_source_and_the_output_file(tmp_path):
    page = Page(gallery(tmp_path, [drawn(3)]))

    (row,) = results.read(str(tmp_path / "out")).to_pylist()
    written = np.asarray(Image.open(tmp_path / "out" / row["output"]))
    np.testing.assert_array_equal(page.picture("before of row-003"), edit_task(3).scene.image)
    np.testing.assert_array_equal(page.picture("after of row-003"), written)
    mask = page.picture("mask of row-003")
    is_tinted = mask[:, :, 0].astype(int) - mask[:, :, 1] > 20
    np.testing.assert_array_equal(is_tinted, edit_task(3).mask)


def test_a_tile_says_scores_seed_candidate_and_the_callers_columns(tmp_path):
    page = Page(gallery(tmp_path, [drawn(3, wanted="circle", width=7)]))

    (row,) = results.read(str(tmp_path / "out")).to_pylist()
    assert f"clip_score {row['clip_score']:.4g}" in page.text
    assert "background_l1 0.25" in page.text
    assert "changed outside the mask 0 px" in page.text
    assert f"seed {row['seed']} candidate 1, 4 tried 32x32 0.5 s wanted circle" in page.text
    assert "candidate 0 of row-003" in [image["alt"] for image in page.all("img")]


def test_nothing_from_a_manifest_becomes_markup(tmp_path):
    rows = [drawn(1) | {"key": f"broken {NASTY}", "prompt": NASTY, "wanted": NASTY}, drawn(2) | {"image": b"no"}]
    clean = [drawn(1) | {"key": "broken", "prompt": "a", "wanted": "b"}, drawn(2) | {"image": b"no"}]
    (tmp_path / "clean").mkdir()

    nasty = Page(gallery(tmp_path, rows))

    expected = Page(gallery(tmp_path / "clean", clean))
    assert [tag for tag, _ in nasty.elements] == [tag for tag, _ in expected.elements]
    assert not [name for _, attributes in nasty.elements for name in attributes if name.startswith("on")]
    assert nasty.texts.count(NASTY) >= 1
    assert f"wanted {NASTY}" in nasty.texts


def test_the_page_loads_nothing_and_its_policy_allows_its_own_script_alone(tmp_path):
    text = gallery(tmp_path, [drawn(1), drawn(2) | {"image": b"no"}])
    page = Page(text)

    assert {image["src"][:11] for image in page.all("img")} == {"data:image/"}
    assert not page.all("link")
    assert "url(" not in text
    assert "@import" not in text
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    for link in page.all("a"):
        target = link["href"]
        assert target.startswith("#") or (tmp_path / "out" / unquote(target)).is_file()


def test_links_of_failures_lead_to_tiles(tmp_path):
    page = Page(gallery(tmp_path, [drawn(1), drawn(2) | {"image": b"no"}, drawn(3) | {"key": "broken"}]))

    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    targets = [link["href"][1:] for link in page.all("a") if link["href"].startswith("#")]
    assert set(targets) <= ids
    assert len([target for target in targets if target.startswith("tile-")]) == 2


def test_failures_are_grouped_by_error_with_counts_messages_and_keys(tmp_path):
    rows = [drawn(1), *(drawn(seed) | {"image": b"garbage"} for seed in (2, 3, 4)), drawn(5) | {"key": "broken-5"}]

    page = Page(gallery(tmp_path, rows))

    assert "5 rows = 1 success + 3 failed_to_load + 1 failed_to_edit" in page.text
    assert "3 failed_to_load : LoadError at decode 3x image is not an image file" in page.text
    assert "1 failed_to_edit : EditError at edit 1x the network gave NaN broken-5" in page.text


def test_a_row_below_its_threshold_shows_what_it_got(tmp_path):
    page = Page(gallery(tmp_path, [drawn(1) | {"key": "poor"}]))

    assert "after of poor" in [image["alt"] for image in page.all("img")]
    assert "QualityError at score: clip_score 0.1 < 0.5" in page.text


def test_rows_without_an_answer_are_counted_while_the_run_goes_on(tmp_path):
    pq.write_table(pa.Table.from_pylist([drawn(1), drawn(2)]), tmp_path / "manifest.parquet")
    output = carry_out(job_of(tmp_path, ray={"rows_per_block": 1}), finish=False)
    Path(results.files(output)[0]).unlink()

    page = Page(page_of(output))

    assert "2 rows = 1 success + 1 not done yet" in page.text
    assert "No summary yet" in page.text


def test_a_source_that_is_gone_does_not_break_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(drawn(1)["image"])
    rows = [{"key": "moved", "image": "photo.png", "prompt": "a red circle"}]
    pq.write_table(pa.Table.from_pylist(rows), "manifest.parquet")
    output = carry_out(job_of(Path(), output="out"))
    Path("photo.png").unlink()

    page = Page(page_of(output))

    assert "source not readable: no object at photo.png" in page.text
    assert str(tmp_path) not in page.text
    assert page.picture("after of moved").shape == (32, 32, 3)


def test_a_manifest_that_is_gone_leaves_the_outputs(tmp_path):
    gallery(tmp_path, [drawn(1)])
    (tmp_path / "manifest.parquet").unlink()

    page = Page(page_of(str(tmp_path / "out")))

    assert "The manifest cannot be read from this machine" in page.text
    assert "source not readable: manifest cannot be read" in page.text
    assert page.picture("after of row-001").shape == (32, 32, 3)


def test_a_manifest_whose_address_holds_a_token_is_read_where_it_is_given_and_never_shown(tmp_path):
    pq.write_table(pa.Table.from_pylist([drawn(1)]), tmp_path / "manifest.parquet?token=planted")
    address = f"local://{tmp_path}/manifest.parquet?token=planted"
    output = carry_out(job_of(tmp_path, manifest=address, editor={"name": "blended_diffusion", "weights": address}))

    by_record = page_of(output)
    given = Path(report.write(output, address)).read_text()

    assert "The manifest cannot be read from this machine" in by_record
    assert edit_task(1).prompt in given
    assert "planted" not in by_record + given
    assert "manifest.parquet?***" in by_record


def test_a_key_that_left_the_manifest_is_still_shown(tmp_path):
    gallery(tmp_path, [drawn(1), drawn(2)])
    pq.write_table(pa.Table.from_pylist([drawn(2)]), tmp_path / "manifest.parquet")

    page = Page(page_of(str(tmp_path / "out")))

    assert page.text.count("source not readable: the manifest no longer has a row with this key") == 1
    assert page.picture("after of row-001").shape == (32, 32, 3)


def test_an_output_that_is_gone_is_said_in_its_place(tmp_path):
    gallery(tmp_path, [drawn(1)])
    (row,) = results.read(str(tmp_path / "out")).to_pylist()
    (tmp_path / "out" / row["output"]).unlink()

    page = Page(page_of(str(tmp_path / "out")))

    assert "output not readable: no image at" in page.text
    assert page.picture("before of row-001").shape == (32, 32, 3)


def test_outputs_in_tar_shards_are_shown_without_a_link(tmp_path):
    page = Page(gallery(tmp_path, [drawn(1)], sink="tar"))

    assert page.picture("after of row-001").shape == (32, 32, 3)
    assert [link["href"] for link in page.all("a")] == ["#rows"]


def test_the_gallery_of_one_output_is_always_the_same(tmp_path):
    first = gallery(tmp_path, [drawn(seed) for seed in range(4)])

    assert page_of(str(tmp_path / "out")) == first


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(OutputError, match="holds no run"):
        report.write(str(tmp_path))


def test_the_page_lies_where_write_says(tmp_path):
    gallery(tmp_path, [drawn(1)])

    assert report.write(str(tmp_path / "out")) == f"{tmp_path}/out/report.html"


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")


def browse(folder: Path, *what: str) -> bytes:
    """Chromium's standard output after opening the run's page without a screen."""
    quiet = ("--disable-background-networking", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars")
    command = [CHROMIUM or "", "--headless", "--no-sandbox", "--disable-gpu", *quiet]
    command += [f"--user-data-dir={folder / 'profile'}", *what, f"file://{folder}/out/report.html"]
    return subprocess.run(command, check=True, capture_output=True, timeout=300).stdout


@in_browser
@pytest.mark.slow
def test_a_browser_shows_the_page_and_runs_only_its_script(tmp_path):
    gallery(tmp_path, [drawn(seed) for seed in range(4)] + [drawn(5) | {"prompt": NASTY}])

    page = Page(browse(tmp_path, "--dump-dom").decode())

    assert len(page.all("article")) == 5
    assert len(page.all("script")) == 1
    (sort,) = [label for text, label in zip(page.labels, page.all("label"), strict=True) if "sort by" in text]
    assert "hidden" not in sort  # the page's own script has shown it, so the policy let it run


@in_browser
@pytest.mark.slow
def test_a_browser_draws_enlarged_pixels_without_blur(tmp_path):
    source = np.zeros((32, 32, 3), np.uint8)
    source[::2, ::2], source[1::2, 1::2] = (255, 0, 255), (255, 0, 255)  # colours that the page itself has not
    source[::2, 1::2], source[1::2, ::2] = (0, 255, 255), (0, 255, 255)
    gallery(tmp_path, [drawn(1) | {"image": png(source)}], keep=1)

    browse(tmp_path, f"--screenshot={tmp_path / 'page.png'}", "--window-size=1400,1400")

    seen = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    for colour in ((255, 0, 255), (0, 255, 255)):
        assert (seen == colour).all(axis=2).sum() >= 192 * 192 / 2  # the source alone, six times enlarged
