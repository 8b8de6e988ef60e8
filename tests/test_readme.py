"""The README's commands do what it says: each is run, in its order, on the jobs and manifests that ship."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from retouch.imaging import codec
from retouch.outputs import results

from tests import ROOT
from tests.helpers.commands_in_turn import Done, commands_in

# All share what the first to come runs, so each may be the one that takes long.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]
MADE = ("make demo", "make test", "make chaos")  # the first is the commands below, the others run tests
# Whole, and through Ray, only with RETOUCH_LONG=1: starting its workers takes longer than a few rows.
SHORTENED = {
    "retouch run jobs/quickstart.yaml": "--limit 8",
    "retouch run jobs/photos.yaml": "--limit 2 --executor local",
    "retouch run jobs/translate.yaml": "--limit 2 --executor local",
    "retouch run jobs/inpaint.yaml": "--limit 4 --executor local",
    "retouch run jobs/blended_latent.yaml": "--limit 4 --executor local",
    "retouch run jobs/exemplar.yaml": "--limit 4 --executor local",
    "retouch evaluate jobs/evaluate.yaml --executor local": "--set shards=1",
}
HERE = ("runs/try", "runs/try-domains", "runs/try-tuned", "runs/try-training")  # outputs of commands shortened likewise
LONG = "RETOUCH_LONG" in os.environ
DRAWN = 32 if LONG else 8  # rows of the quickstart


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [line for block in blocks for line in block.strip().splitlines()]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the jobs and manifests, and none of our outputs."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("jobs", "manifests"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module")
def outputs(workplace: Path, shared_ray: str) -> dict[str, str]:
    """What each command printed. The first ``retouch run`` starts Ray as a person's does, the others share one."""
    printed = {}
    # As a person has it after `source .venv/bin/activate`.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with commands_in(workplace) as in_turn:
        for command in commands():
            if command in MADE:
                continue
            program, *arguments = shlex.split(command if LONG else f"{command} {shortened(command)}")
            if program == "retouch" and printed:
                done = in_turn.run(arguments, environment)
            else:
                done = started([program, *arguments], workplace, environment)
            if command.startswith("retouch run"):
                environment["RAY_ADDRESS"] = shared_ray
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            printed[command] = done.stdout
    return printed


def shortened(command: str) -> str:
    """Further options of a command, so that it takes little time."""
    if any(f"output={output} " in f"{command} " for output in HERE) and command.startswith("retouch run"):
        return "--executor local"
    return SHORTENED.get(command, "")


def started(line: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Done:
    """A command as a shell starts it."""
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def test_the_readme_shows_the_commands_that_there_are() -> None:
    shown = " ".join(commands())
    for name in ("run", "plan", "check", "status", "verify", "row", "report", "evaluate", "plugins", "export"):
        assert f"retouch {name}" in shown


def test_make_demo_runs_commands_that_the_readme_shows() -> None:
    recipe = (ROOT / "Makefile").read_text().split("\ndemo:")[1].split("\n\n")[0]
    ran = [line.replace("\t$(BIN)/", "") for line in recipe.splitlines()[1:]]
    assert ran
    assert set(ran) <= set(commands())


def test_every_command_of_the_readme_runs(outputs: dict[str, str]) -> None:
    assert f"rows: {DRAWN} = {DRAWN} success" in outputs["retouch run jobs/quickstart.yaml"]
    assert f"{DRAWN}/{DRAWN} rows done" in outputs["retouch status runs/quickstart"]
    assert "ok, digest" in outputs["retouch verify runs/quickstart"]
    planned = next(text for line, text in outputs.items() if line.startswith("retouch plan"))
    assert "4 rows, 0 done, 4 left" in planned
    counts, worst, by_prompt = (text for line, text in outputs.items() if line.startswith("python -c"))
    assert re.search(rf"success\W+{DRAWN}\b", counts)
    assert worst.count("images/") == 5
    assert re.search(r"a red (circle|square|triangle|cross)", by_prompt)
    assert (
        f"{DRAWN} rows exported, 0 left out"
        in outputs["retouch export runs/quickstart datasets/shards --format webdataset"]
    )
    assert "identical" in next(text for line, text in outputs.items() if line.startswith("retouch row"))
    translated, exemplars = (24, 32) if LONG else (2, 4)
    assert f"rows: {translated} = {translated} success" in outputs["retouch run jobs/translate.yaml"]
    assert f"rows: {exemplars} = {exemplars} success" in outputs["retouch run jobs/exemplar.yaml"]
    assert "region_clip" in outputs["retouch evaluate jobs/evaluate.yaml --executor local"]
    assert "rows: 2 = 2 success" in next(text for line, text in outputs.items() if "--limit 2" in line)


def test_the_quickstarts_edits_do_what_their_prompts_say(outputs: dict[str, str], workplace: Path) -> None:
    """By the judge, which no editor sees. Far over chance (1 in 24), under the figure in RESULTS.md."""
    table = results.read(str(workplace / "runs/quickstart"), ["judge_agrees"])
    agrees = table["judge_agrees"].to_pylist()
    assert len(agrees) == DRAWN
    assert sum(agrees) >= DRAWN // 2, f"{sum(agrees)} of {DRAWN}"


def test_the_quickstart_changes_no_pixel_outside_any_mask(outputs: dict[str, str], workplace: Path) -> None:
    rows = {row["key"]: row for row in results.read(str(workplace / "runs/quickstart")).to_pylist()}
    for request in pq.read_table(ROOT / "manifests/shapes.parquet").slice(0, DRAWN).to_pylist():
        source = codec.decode_image(request["image"]["bytes"]).pixels
        mask = codec.decode_mask(request["mask"]["bytes"], source.shape[:2])
        after = np.asarray(Image.open(workplace / "runs/quickstart" / rows[request["key"]]["output"]).convert("RGB"))
        assert np.array_equal(after[~mask], source[~mask])
        assert rows[request["key"]]["background_changed_px"] == 0
