"""The manual says what the code says, and every block of commands in it is run, or says what it would need."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from retouch import errors
from retouch.cli.app import main
from retouch.outputs import results
from retouch.schema import results_schema

from tests.helpers.datasets import picture, square
from tests.helpers.manual import BLOCK, DOCUMENTS, ROOT, commands, written_again
from tests.manifests.test_from_folder import fill

FENCED = re.compile(r"^( *)```(.*?)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\s*(?:\$ )?(retouch|ray|kubectl|helm|docker|uv|pip|pytest|make|eksctl|python) ", re.MULTILINE)
INDENTED = re.compile(r"^(?: {4}|\t) *(?:retouch|ray|kubectl|helm|docker|uv|pip|pytest|make) ", re.MULTILINE)
# Which test runs the blocks of a document, by language.
RUN_BY = {
    "README.md": {"sh": "test_readme.py", "python": "test_api.py"},
    "jobs/own-editor/README.md": {"sh": "test_own_editor.py"},
    "manifests/README.md": {"sh": "test_manual.py", "sql": "test_manual.py"},
}


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(name: str) -> list[tuple[str, str]]:
    """Info string and text of each fenced block."""
    return [(info, text) for _, info, text in FENCED.findall(text_of(name))]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_made_from_the_code_is_what_the_code_makes(name: str) -> None:
    assert text_of(name) == written_again(text_of(name)), "run: .venv/bin/python -m tests.helpers.manual"


def test_every_part_that_can_be_made_stands_in_the_manual() -> None:
    made = {found[1] for name in DOCUMENTS for found in BLOCK.findall(text_of(name))}
    assert made == {"commands", "job fields", "manifest columns"}


def test_every_command_says_what_it_does_in_one_sentence() -> None:
    import typer
    from retouch.cli.app import app

    for name, said in commands(typer.main.get_command(app)):
        assert said.endswith("."), name


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_block_of_commands_is_run_by_a_test_or_says_what_it_needs(name: str) -> None:
    for info, text in blocks(name):
        if info in ("sh", "python", "sql"):
            assert info in RUN_BY.get(name, {}), f"nothing runs this block of {name}:\n{text}"
        elif COMMAND.search(text):
            assert re.fullmatch(r"sh needs \S.*", info), f"write ```sh, or ```sh needs a cluster, in {name}:\n{text}"
    assert not INDENTED.search(text_of(name)), f"{name} has commands that are indented: write ```sh"


def troubles() -> list[tuple[str, str]]:
    """The first two cells of each row of the table of errors."""
    table = text_of("jobs/README.md").split("| message |")[1].split("\n\n")[0]
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    return [(cells[0].removeprefix("| "), cells[1].strip("`")) for cells in rows]


def test_every_error_class_has_its_place_among_the_troubles() -> None:
    classes = {
        name for name, kind in vars(errors).items() if inspect.isclass(kind) and kind.__module__ == errors.__name__
    }
    chapter = text_of("jobs/README.md").split("## Troubleshooting")[1].split("# Fields of job files")[0]
    assert {name for name in classes if f"`{name}`" not in chapter} == set()
    assert {name for _, name in troubles()} <= classes


def test_every_message_that_is_quoted_is_one_that_the_code_says() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "pipeline").rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # texts that go over lines
    quoted = [message for cell, _ in troubles() for message in re.findall(r"`([^`]+)`", cell)]
    assert len(quoted) > 25
    parts = {part.strip() for message in quoted for part in re.split(r"…|\{env:NAME\}", message)}
    assert {part for part in parts if part not in code} == set(), "nobody says these"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the commands of manifests/README.md are about: a set of two images, a COCO, a run's results."""
    fill(f"{tmp_path}/set/images", "000.png", "001.png")
    fill(f"{tmp_path}/set/masks", "000.png", "001.png", pixels=square())
    csv = next(text for info, text in blocks("manifests/README.md") if not info and text.startswith("image,"))
    (tmp_path / "set/prompts.csv").write_text(csv)
    fill(f"{tmp_path}/coco/images", "1.png", "2.png", pixels=picture(0, 30, 40))
    boxes = [[2.0, 3.0, 20.0, 10.0], [0.0, 0.0, 2.0, 2.0]]
    instances = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 30} for n in (1, 2)],
        "annotations": [
            {"id": 7 + n, "image_id": 1 + n, "category_id": 3, "bbox": box, "iscrowd": 0} for n, box in enumerate(boxes)
        ],
        "categories": [{"id": 3, "name": "circle"}],
    }
    (tmp_path / "coco/instances.json").write_text(json.dumps(instances))
    schema = results_schema({"clip_score": pa.float64()}, pa.schema([]))
    answers = [
        {"key": "000", "fingerprint": "a", "status": "success", "clip_score": 80.0},
        {"key": "001", "fingerprint": "b", "status": "success", "clip_score": 20.0},
    ]
    monkeypatch.chdir(tmp_path)
    results.write_block("runs/set", pa.Table.from_pylist(answers, schema), epoch=1)
    return tmp_path


def test_the_commands_and_queries_of_the_manifests_manual_do_what_it_says(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for info, text in blocks("manifests/README.md"):
        if info == "sql":
            duckdb.sql(text)
        for line in text.splitlines() if info == "sh" else ():
            with pytest.raises(SystemExit) as ended:
                main(shlex.split(line)[1:])
            assert not ended.value.code, f"{line}\n{capsys.readouterr()}"
    tables = {name: pq.read_table(workplace / name).to_pylist() for name in ("set/boxed.parquet", "rows.parquet")}
    assert [(row["key"], row["wanted"]) for row in tables["set/boxed.parquet"]] == [
        ("000-1", "circle"),
        ("000-2", "square"),
        ("001", "triangle"),
    ]
    assert tables["rows.parquet"] == [
        {
            "key": "1.png-7",
            "image": "coco/images/1.png",
            "bbox": [2.0, 3.0, 22.0, 13.0],
            "prompt": "a red circle",
            "category": "circle",
        }
    ]
    assert pq.read_table(workplace / "coco-boxes.parquet").num_rows == 1
    assert pq.read_table(workplace / "set/again.parquet")["key"].to_pylist() == ["001"]
