"""The README of an exported dataset: a dataset card, whose header tells Hugging Face's ``datasets`` what is what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import yaml

from retouch.imaging.codec import EXTENSIONS
from retouch.outputs.export.items import Layout
from retouch.outputs.export.shard_writer import IMAGES
from retouch.redaction import redacted

Format = Literal["webdataset", "parquet", "folder"]
CARD: Final = "README.md"
FILES: Final[Mapping[Format, list[str]]] = {
    "webdataset": ["*.tar"],
    "parquet": ["data/*.parquet"],
    "folder": ["metadata.jsonl", "images/**"],
}
_SIZES: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_WORDS: Final[Mapping[Layout, str]] = {
    "edited": "one edited image a row",
    "pairs": "source, mask, instruction and edited image of each row",
}


@dataclass(frozen=True)
class Facts:
    """What a card says."""

    name: str  # of the dataset's folder
    format: Format
    layout: Layout
    record: Mapping[str, Any]  # run.json
    rows: int
    columns: Mapping[str, str]  # name to type, of those beside the images
    selected: str  # which rows these are, in words
    stamped: bool
    signed: bool


def card(facts: Facts) -> str:
    """The README's text; the same facts give the same text."""
    job = facts.record["job"]
    header = {
        "pretty_name": job["name"],
        "task_categories": ["image-to-image"],
        "tags": ["image-editing", "synthetic", "retouch", *(["webdataset"] if facts.format == "webdataset" else [])],
        "size_categories": [next((name for most, name in _SIZES if facts.rows < most), "n>1M")],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": _path(FILES[facts.format])}]}],
    }
    return redacted(
        "\n".join(
            [
                "---",
                yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip(),
                "---",
                "",
                f"# {job['name']}",
                "",
                f"{facts.rows} rows, {_WORDS[facts.layout]}, exported by Retouch as {facts.format}: {facts.selected}.",
                f"Editor `{job['editor']['name']}`, run seed {job['seed']}.",
                "",
                "In the folder that holds this one:",
                "",
                "```python",
                "import datasets",
                "",
                f'dataset = datasets.load_dataset({json.dumps(f"./{facts.name}")}, split="train")',
                "```",
                "",
                *_by_others(facts),
                *_columns(facts),
                "",
                *_notes(facts),
                "",
            ]
        )
    )


def _path(patterns: list[str]) -> str | list[str]:
    return patterns[0] if len(patterns) == 1 else patterns


def _by_others(facts: Facts) -> list[str]:
    if facts.format != "webdataset":
        return []
    return [
        "With `webdataset` (the shards' names, rows and sizes are in `export.json`):",
        "",
        "```python",
        "import glob, webdataset",
        "",
        f"shards = sorted(glob.glob({json.dumps(f'./{facts.name}/*.tar')}))",
        'dataset = webdataset.WebDataset(shards, shardshuffle=False).decode("pil")',
        "```",
        "",
    ]


def _columns(facts: Facts) -> list[str]:
    if facts.format == "webdataset":
        kind = EXTENSIONS[facts.record["job"]["image_format"]]
        names = ", ".join(f"`{name}`" for name in facts.columns)
        if facts.layout == "edited":
            return [f"`KEY.{kind}` is the edited image, `KEY.json` holds {names}."]
        files = f"`KEY.source.png`, `KEY.mask.png`, `KEY.edited.{kind}`"
        return [f"{files}, the instruction as `KEY.txt`; `KEY.json` holds {names}."]
    pictures = [f"| `{name}` | image |" for name in IMAGES[facts.layout].values()]
    texts = ["| `edit_prompt` | string |"] if facts.layout == "pairs" else []
    others = [f"| `{name}` | {kind} |" for name, kind in facts.columns.items() if not (texts and name == "prompt")]
    return ["| column | type |", "|---|---|", *pictures, *texts, *others]


def _notes(facts: Facts) -> list[str]:
    notes = (
        ["`sha256` is of the run's own file, before anything was written into it."] if "sha256" in facts.columns else []
    )
    if facts.layout == "pairs":
        notes.append("White in a mask is what was edited; sources are upright, at the size of their edits.")
    if facts.stamped:
        notes.append(
            "Each edited image says in its metadata what made it: job, editor, prompt, seed, hashes of the weights, "
            "and IPTC's `DigitalSourceType` (composite with trained algorithmic media)."
        )
    if facts.signed:
        notes.append("Each edited image carries that as signed Content Credentials (C2PA).")
    return [*notes, "The licence is that of the sources and of the weights; name it here."]
