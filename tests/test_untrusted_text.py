"""What stands in a manifest, a job or an error is shown by the gallery as the text that it is, and never runs.

A real run, its real page, a real browser, with the page's policy and without it.
"""

from __future__ import annotations

import html
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from retouch.execution.edit import run
from retouch.outputs.report import gallery
from rich.console import Console

from tests.helpers.datasets import painter_job, write_dataset
from tests.outputs.report.test_gallery import Page, browse, in_browser

OWNED = "document.title='owned'"
PLANTED = {
    "script": f"<script>{OWNED}</script>",
    "image": f'"><img src=x onerror="{OWNED}">',
    "single quotes": f"'><svg onload={OWNED}>",
    "end of script": f"</script><script>{OWNED}</script>",
    "end of title": f"</title></style></textarea><script>{OWNED}</script>",
    "attribute": f'" autofocus onfocus="{OWNED}" x="',
    "comment": f"--><script>{OWNED}</script><!--",
    "link": f"javascript:{OWNED}",
    "data link": f"data:text/html,<script>{OWNED}</script>",
    "template": "{{ 7 * 7 }}{% for x in y %}",
    "entity": "&lt;b&gt; &#60;b&#62; &amp;amp;",
    "right to left": "\u202egnp.exe\u2066 \u200b\ufeff",
    "wide brackets": f"\uff1cscript\uff1e{OWNED}\uff1c/script\uff1e",
    "accents": "Z\u0351\u0327a\u0312\u0323" * 20,
    "control": "a\x1b[31m\x07b",
    "line ends": "a\r\nb\u2028c\u2029d\x85e",
}
TEXTS = list(PLANTED.values())
POLICY = '<meta http-equiv="Content-Security-Policy"'


def made(folder: Path) -> Path:
    """A finished run with all of it in keys, prompts, callers' columns and their names, addresses, params, errors."""
    rows = 2 * len(TEXTS) + 2
    prompts = [f"{number} {text}" for number, text in enumerate(TEXTS)]
    images = ["files/0.png"] * len(TEXTS) + [f"{text}.png" for text in TEXTS] + ["files/0.png"] * 2
    params = [None] * (2 * len(TEXTS)) + [json.dumps({"size": TEXTS[0]}), json.dumps({TEXTS[1]: 1})]
    caller = [*TEXTS, *TEXTS, "", ""]
    manifest = write_dataset(
        folder,
        rows,
        key=[f"{number} {text}" for number, text in enumerate([*TEXTS, *TEXTS, "a", "b"])],
        image=images,
        prompt=[*prompts, *prompts, "", ""],
        params=params,
        **{f"column {text}": caller for text in TEXTS[:4]},
    )
    job = painter_job(folder, manifest, max_failure_rate=1.0, editor=editor(grey=None))
    summary = run(job, executor="local", console=Console(file=io.StringIO()))
    assert summary.statuses["success"] == len(TEXTS)
    assert summary.rows == rows
    return folder / "out" / "report.html"


def editor(**params: Any) -> dict[str, Any]:
    return {"name": "tests.helpers.painters:Painter", "weights": {TEXTS[0]: __file__}, "params": params}


def forged(page: Path) -> None:
    """Write the page again from records that somebody else wrote."""
    record = json.loads((page.parent / "run.json").read_text())
    record["job"] |= {"name": TEXTS[4], "output": TEXTS[1], "image_format": TEXTS[3], "seed": TEXTS[0]}
    record["job"]["editor"] |= {"name": TEXTS[5], "params": {TEXTS[0]: TEXTS[1]}}
    record |= {"retouch": TEXTS[0], "python": TEXTS[1], "started": TEXTS[2], "versions": {TEXTS[0]: TEXTS[3]}}
    record["decides"]["weights_sha256"] = {TEXTS[0]: TEXTS[1]}
    (page.parent / "run.json").write_text(json.dumps(record))
    summary = {"answered_now": TEXTS[0], "seconds": TEXTS[1], "images_per_second": TEXTS[2], "edit_seconds": TEXTS[3]}
    (page.parent / "summary.json").write_text(json.dumps(summary))
    gallery.write(str(page.parent))


@pytest.fixture(scope="module", params=["as it was run", "with forged records"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gallery of that run."""
    path = made(tmp_path_factory.mktemp("untrusted"))
    if request.param == "with forged records":
        forged(path)
    return path


def opened(folder: Path) -> str:
    """The document after the browser has had two seconds of its own time for whatever would run."""
    return browse(folder, "--dump-dom", "--virtual-time-budget=2000").decode()


def title(document: str) -> str:
    """What the window would be called."""
    (found,) = re.findall(r"<title>(.*?)</title>", document, re.DOTALL)
    return html.unescape(found)


def squeezed(text: str) -> str:
    """As a browser's text reads: white space in a row is one space."""
    return " ".join(text.split())


def assert_shown_as_text(seen: Page) -> None:
    """Every planted text is there in full, and no element or attribute is."""
    for name, text in PLANTED.items():
        shown = squeezed(text.replace("\x1b", "").replace("\x07", ""))
        assert squeezed(seen.text.replace("\x1b", "").replace("\x07", "")).count(shown) >= 2, name
    assert len(seen.all("script")) == 1
    assert {image["src"].partition(",")[0] for image in seen.all("img")} <= {
        "data:image/png;base64",
        "data:image/webp;base64",
    }
    names = {name for _, attributes in seen.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name == "autofocus"}
    assert all(link["href"].startswith(("#tile-", "#rows", "images/")) for link in seen.all("a"))


def test_the_page_holds_it_as_text_and_no_element_of_it(page: Path) -> None:
    assert_shown_as_text(Page(page.read_text()))


@in_browser
@pytest.mark.slow
@pytest.mark.parametrize("policy", ["with the policy", "without it"])
def test_a_browser_shows_it_as_text_and_runs_none_of_it(page: Path, tmp_path: Path, policy: str) -> None:
    text = page.read_text()
    assert text.count(POLICY) == 1
    (tmp_path / "out").mkdir()
    kept = text if policy == "with the policy" else text.replace(POLICY, '<meta name="was-policy"')
    (tmp_path / "out" / "report.html").write_text(kept)
    seen = opened(tmp_path)
    assert_shown_as_text(Page(seen))
    assert title(seen) == title(text)


@in_browser
@pytest.mark.slow
@pytest.mark.parametrize("name", ["script", "image", "single quotes"])  # focus needs a window that is drawn in time
def test_the_browser_would_run_it_if_it_were_no_text(tmp_path: Path, name: str) -> None:
    """What the test above goes by: without escaping, each of these changes the title."""
    place = "<!DOCTYPE html><title>mine</title><input value='{0}'><p>{0}</p>"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").write_text(place.format(PLANTED[name]))
    assert title(opened(tmp_path)) == "owned"
