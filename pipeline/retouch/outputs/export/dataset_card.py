"""The README of an exported dataset: a Hugging Face dataset card, with the metadata that ``datasets`` reads."""

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
    "edited": "one edited image per row",
    "pairs": "source, mask, instruction and edited image per row",
}


@dataclass(frozen=True)
class Facts:
    """The facts on a card."""

    name: str  # of the dataset's folder
    format: Format
    layout: Layout
    record: Mapping[str, Any]  # run.json
    rows: int
    columns: Mapping[str, str]  # name to type, without the images
    selected: str  # the selection of rows, in words
    stamped: bool
    signed: bool


def render_card(facts: Facts) -> str:
    """Return the README's text; deterministic."""
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
                "From the parent folder:",
                "",
                "```python",
                "import datasets",
                "",
                f'dataset = datasets.load_dataset({json.dumps(f"./{facts.name}")}, split="train")',
                "```",
                "",
                *_webdataset_usage(facts),
                *_columns(facts),
                "",
                *_notes(facts),
                "",
            ]
        )
    )


def _path(patterns: list[str]) -> str | list[str]:
    return patterns[0] if len(patterns) == 1 else patterns


def _webdataset_usage(facts: Facts) -> list[str]:
    if facts.format != "webdataset":
        return []
    return [
        "With `webdataset` (`export.json` lists the shards with rows and sizes):",
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
    notes = ["`sha256` is that of the run's file, before metadata was added."] if "sha256" in facts.columns else []
    if facts.layout == "pairs":
        notes.append("White in a mask means edited. Sources are upright and have the size of their edits.")
    if facts.stamped:
        notes.append(
            "The metadata of each edited image records job, editor, prompt, seed, hashes of the weights, and IPTC's "
            "`DigitalSourceType` (composite with trained algorithmic media)."
        )
    if facts.signed:
        notes.append("Each edited image also has it as signed Content Credentials (C2PA).")
    return [*notes, "License: that of the sources and the weights; add it here."]
