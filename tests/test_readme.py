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
from retouch.jobs.config import load_job
from retouch.outputs import results

from tests import ROOT
from tests.helpers.commands_in_turn import Done, commands_in

# All share what the first to come runs, so each may be the one that takes long.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]
MADE = ("make demo", "make test", "make chaos")  # the first is the commands below, the others run tests
LONG = "RETOUCH_LONG" in os.environ
# Commands on these jobs and outputs load further networks: only with RETOUCH_LONG=1. Their job files are always read.
LONG_ONLY = ("photos", "inpaint", "blended_latent", "translate", "exemplar", "finetune", "evaluate", "runs/try")
LONG_ONLY += ("outpaint", "runs/nightly", "runs/planned")
ROWS = {"quickstart": 32, "translate": 24, "exemplar": 32} if LONG else {"quickstart": 8}


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
            if is_long(command) and not LONG:
                continue
            program, *arguments = shlex.split(command)
            if command == "retouch run jobs/quickstart.yaml":
                arguments += ["--limit", str(ROWS["quickstart"])]
            if program == "retouch" and printed:
                done = in_turn.run(arguments, environment)
            else:
                done = started([program, *arguments], workplace, environment)
            if command.startswith("retouch run"):
                environment["RAY_ADDRESS"] = shared_ray
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            printed[command] = done.stdout
    return printed


def is_long(command: str) -> bool:
    return any(part in command for part in LONG_ONLY)


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


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith(("retouch run", "retouch plan"))])
def test_jobs_and_changes_that_the_readme_shows_are_accepted(command: str) -> None:
    words = shlex.split(command)
    changes = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    job = load_job(words[2], changes, "2026-11-25")
    assert job.output.startswith("runs/")


def test_every_command_of_the_readme_runs(outputs: dict[str, str]) -> None:
    drawn = ROWS["quickstart"]
    assert f"rows: {drawn} = {drawn} success" in outputs["retouch run jobs/quickstart.yaml"]
    assert f"{drawn}/{drawn} rows done" in outputs["retouch status runs/quickstart"]
    assert "ok, digest" in outputs["retouch verify runs/quickstart"]
    counts, worst, by_prompt = (text for line, text in outputs.items() if line.startswith("python -c"))
    assert re.search(rf"success\W+{drawn}\b", counts)
    assert worst.count("images/") == 5
    assert re.search(r"a red (circle|square|triangle|cross)", by_prompt)
    assert (
        f"{drawn} rows exported, 0 left out"
        in outputs["retouch export runs/quickstart datasets/shards --format webdataset"]
    )
    assert "identical" in next(text for line, text in outputs.items() if line.startswith("retouch row"))


@pytest.mark.long
def test_every_further_command_of_the_readme_runs(outputs: dict[str, str]) -> None:
    planned = next(text for line, text in outputs.items() if line.startswith("retouch plan"))
    assert "4 rows, 0 done, 4 left" in planned
    for name in ("translate", "exemplar"):
        assert f"rows: {ROWS[name]} = {ROWS[name]} success" in outputs[f"retouch run jobs/{name}.yaml"]
    assert "region_clip" in outputs["retouch evaluate jobs/evaluate.yaml --executor local"]
    assert "rows: 2 = 2 success" in next(text for line, text in outputs.items() if "--limit 2" in line)


def test_the_quickstarts_edits_do_what_their_prompts_say(outputs: dict[str, str], workplace: Path) -> None:
    """By the judge, which no editor sees. Far over chance (1 in 24), under the figure in RESULTS.md."""
    table = results.read(str(workplace / "runs/quickstart"), ["judge_agrees"])
    agrees = table["judge_agrees"].to_pylist()
    assert len(agrees) == ROWS["quickstart"]
    assert sum(agrees) >= ROWS["quickstart"] // 2, f"{sum(agrees)} of {ROWS['quickstart']}"


def test_the_quickstart_changes_no_pixel_outside_any_mask(outputs: dict[str, str], workplace: Path) -> None:
    rows = {row["key"]: row for row in results.read(str(workplace / "runs/quickstart")).to_pylist()}
    for request in pq.read_table(ROOT / "manifests/shapes.parquet").slice(0, ROWS["quickstart"]).to_pylist():
        source = codec.decode_image(request["image"]["bytes"]).pixels
        mask = codec.decode_mask(request["mask"]["bytes"], source.shape[:2])
        after = np.asarray(Image.open(workplace / "runs/quickstart" / rows[request["key"]]["output"]).convert("RGB"))
        assert np.array_equal(after[~mask], source[~mask])
        assert rows[request["key"]]["background_changed_px"] == 0
