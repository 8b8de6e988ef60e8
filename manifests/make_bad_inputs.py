"""Makes the corpus of bad input: ``python manifests/make_bad_inputs.py FOLDER``.

``FOLDER/NAME.parquet`` are sets of rows. Each row has the expected status and error in ``expect_status`` and
``expect_error``, and the expected hints of ``retouch check`` in ``expect_hints``. ``rows`` is for any editor that reads
mask and prompt, ``exemplars`` for one that needs an exemplar, ``prompts`` for one that needs a prompt, ``tokens`` for
one that reads prompts with a CLIP of 28 to 77 tokens. ``manifests/`` and ``jobs/`` hold manifests and jobs that are
invalid as a whole; ``FOLDER/cases.json`` has the expected exit code and error of each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.append(str(Path(__file__).parents[1]))  # a script is not in a package

from manifests import bad_files
from manifests.bad_jobs import wrong_jobs, wrong_manifests

FILE: Final = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        ("image", FILE),
        ("mask", FILE),
        ("bbox", pa.list_(pa.float64())),
        ("prompt", pa.string()),
        ("exemplar", FILE),
        ("checkpoint", pa.string()),
        ("seed", pa.int64()),
        ("params", pa.string()),
        ("case", pa.string()),
        ("expect_status", pa.string()),
        ("expect_error", pa.string()),
        ("expect_hints", pa.list_(pa.string())),  # in order of their names
    ]
)
STATUS: Final = {None: "success", "EditError": "failed_to_edit", "ConfigError": "failed_to_edit"}  # else to load
PICTURE: Final = bad_files.stored(bad_files.picture())
MASK: Final = bad_files.stored(bad_files.box())
LARGE: Final = bad_files.picture(200, 200)  # large enough that its files can be truncated
BLANK: Final = " \t\u3000\n"


@dataclass(frozen=True)
class File:
    """A file in the folder ``files`` next to the manifest."""

    name: str
    data: bytes


Cell = bytes | str | File | None  # a file's bytes, an address, a file next to the manifest, or null


@dataclass(frozen=True)
class Row:
    """One row, valid except for what its case is about; expected to succeed if ``error`` is None."""

    case: str
    error: str | None = None
    hints: tuple[str, ...] = ()
    image: Cell = PICTURE
    mask: Cell = MASK
    exemplar: Cell = PICTURE
    prompt: str | None = "a red circle"
    bbox: tuple[float | None, ...] | None = None
    checkpoint: str | None = None
    seed: int | None = None
    params: str | None = None
    key: str | None = None  # None: the case

    def cells(self) -> dict[str, Any]:
        """Return the manifest's row."""
        return {
            "key": self.case if self.key is None else self.key,
            **{name: _cell(getattr(self, name)) for name in ("image", "mask", "exemplar")},
            **{name: getattr(self, name) for name in ("bbox", "prompt", "checkpoint", "seed", "params", "case")},
            "expect_status": STATUS.get(self.error, "failed_to_load"),
            "expect_error": self.error,
            "expect_hints": list(self.hints),
        }


def _cell(cell: Cell) -> dict[str, Any] | None:
    if cell is None:
        return None
    if isinstance(cell, bytes):
        return {"bytes": cell, "path": None}
    return {"bytes": None, "path": f"files/{cell.name}" if isinstance(cell, File) else cell or None}


def images() -> Iterable[Row]:
    """Return valid and invalid images."""
    yield Row("good")
    for name, data in {
        "empty.png": b"",
        "truncated.jpg": bad_files.stored(LARGE, "JPEG")[:2000],
        "truncated.png": bad_files.stored(LARGE)[:1000],
        "truncated.webp": bad_files.stored(LARGE, "WEBP")[:500],
        "truncated.tif": bad_files.tiff(bad_files.picture()[..., 0])[:300],
        "not-found.jpg": b"<!doctype html><title>404</title>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>',
        "program.eps": bad_files.stored(bad_files.picture(), "EPS"),
        "bomb.png": bad_files.bomb(),
        "bomb-of-text.png": bad_files.text_bomb(),
        "bomb-by-header.png": bad_files.png_chunks(2**31 - 1, 2**31 - 1, b""),
        "zero-wide.png": bad_files.png_chunks(0, 5, b""),
        "zero-high.png": bad_files.png_chunks(5, 0, b""),
        "zero.gif": b"GIF89a" + bytes(7) + b";",
        "nan.tif": bad_files.with_value(np.nan),
        "infinite.tif": bad_files.with_value(np.inf),
        "negative.tif": bad_files.with_value(-1),
    }.items():
        yield Row(f"image-{name}", "LoadError", image=File(name, data))
    yield Row("image-null", "LoadError", image=None)
    yield Row("image-struct-of-nulls", "LoadError", image="")
    yield Row("image-empty-bytes", "LoadError", image=b"")
    yield Row("image-address-as-bytes", "LoadError", image=b"files/picture.jpg")
    for name, mode in {"grey": "L", "one-bit": "1", "palette": "P", "grey-alpha": "LA", "rgba": "RGBA"}.items():
        yield Row(f"image-{name}", image=bad_files.in_mode(mode))
    yield Row("image-cmyk", image=bad_files.in_mode("CMYK", "JPEG"))
    yield Row("image-lab", image=bad_files.lab())
    yield Row("image-16-bit", image=bad_files.deep())
    yield Row("image-16-bit-rgb", image=bad_files.deep(3))
    yield Row("image-float", image=bad_files.tiff(bad_files.box().astype(np.float32) / 255))
    yield Row("image-wrong-extension", image=File("picture.jpg", PICTURE))
    for kind in ("GIF", "WEBP", "PNG"):
        yield Row(f"image-animated-{kind.lower()}", hints=("animated",), image=bad_files.animated(kind))
    white = bad_files.stored(bad_files.box(1, 1, ground=255))
    pixel = bad_files.stored(bad_files.picture(1, 1))
    yield Row("image-one-pixel", image=pixel, mask=None)
    yield Row("image-one-pixel-masked", hints=("mask-covers-all",), image=pixel, mask=white)
    yield Row("image-long-strip", image=bad_files.stored(bad_files.picture(20_000, 1)), mask=None)
    yield Row(
        "image-broken-exif", image=bad_files.stored(bad_files.picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    )


def addresses() -> Iterable[Row]:
    """Return addresses that do not exist, and unusual names of files that do."""
    for name, address in {
        "missing": "files/none.png",
        "other-spelling": "files/cafe\u0301.png",
        "missing-in-memory": "memory://none/none.png",
    }.items():
        yield Row(f"address-{name}", "ObjectMissing", image=address)
    for name, address in {
        "folder": "files",
        "below-a-file": "files/picture.jpg/x.png",
        "too-long": f"files/{'x' * 300}.png",
        "null-byte": "files/a\0b.png",
        "unknown-scheme": "gopher://x/y.png",
    }.items():
        yield Row(f"address-{name}", "StorageError", image=address)
    yield Row("address-accent", image=File("caf\u00e9.png", PICTURE))
    yield Row("address-emoji", image=File("\U0001f600 \u202e.png", PICTURE))
    yield Row("address-shell", image=File("$(touch x); `id` #%41?.png", PICTURE))
    yield Row("address-up", image="files/../files/caf\u00e9.png")


def masks() -> Iterable[Row]:
    """Return valid and invalid masks."""
    white = bad_files.box(1, 1, ground=255)
    black = np.dstack([bad_files.box(value=0)] * 3)
    yield Row("mask-null", mask=None)
    yield Row("mask-missing", "ObjectMissing", mask="files/none.png")
    yield Row("mask-empty", "LoadError", mask=File("empty-mask.png", b""))
    yield Row("mask-truncated", "LoadError", mask=bad_files.stored(bad_files.box(200, 200), "JPEG")[:700])
    yield Row("mask-black", "LoadError", mask=bad_files.stored(black))
    yield Row("mask-faint", "LoadError", mask=bad_files.stored(bad_files.box(value=100)))
    yield Row("mask-float-nan", "LoadError", mask=bad_files.with_value(np.nan))
    yield Row("mask-white", hints=("mask-covers-all",), mask=bad_files.stored(bad_files.box(ground=255)))
    yield Row("mask-inverted", hints=("mask-inverted",), mask=bad_files.stored(bad_files.box(value=0, ground=255)))
    yield Row(
        "mask-noisy",
        hints=("mask-noisy",),
        image=bad_files.stored(bad_files.picture(90, 130)),
        mask=bad_files.noisy_mask(),
    )
    yield Row("mask-other-size", hints=("mask-resized",), mask=bad_files.stored(bad_files.box(12, 16)))
    yield Row("mask-one-pixel", hints=("mask-covers-all", "mask-resized"), mask=bad_files.stored(white))
    yield Row("mask-alpha", mask=bad_files.alpha_mask(bad_files.box()))
    yield Row("mask-alpha-opaque", "LoadError", mask=bad_files.stored(np.dstack([black, bad_files.box(ground=255)])))
    yield Row("mask-16-bit", mask=bad_files.tiff(bad_files.box().astype(np.uint16) * 257))
    yield Row("mask-float", mask=bad_files.tiff(bad_files.box().astype(np.float32) / 255))
    yield Row("mask-palette", mask=bad_files.stored(bad_files.Image.fromarray(bad_files.box()).convert("P")))
    plain, turned = (bad_files.turned(bad_files.picture(), way) for way in (bad_files.UPRIGHT, bad_files.TURNED))
    turned_mask = bad_files.turned(bad_files.box(), bad_files.TURNED, "PNG")
    yield Row("exif-on-the-image-alone", hints=("mask-resized", "turned-alone"), image=turned)
    yield Row("exif-on-the-mask-alone", hints=("mask-resized", "turned-alone"), image=plain, mask=turned_mask)
    yield Row("exif-on-both", image=turned, mask=turned_mask)


def boxes() -> Iterable[Row]:
    """Return boxes instead of masks."""
    wrong: dict[str, tuple[float | None, ...]] = {
        "outside": (100, 100, 120, 120),
        "empty": (4, 4, 4, 9),
        "backwards": (9, 9, 4, 4),
        "of-three": (1, 2, 3),
        "of-none": (),
        "with-null": (1, 2, None, 4),
        "nan": (1, 2, float("nan"), 4),
        "infinite": (0, 0, float("inf"), 9),
    }
    for name, edges in wrong.items():
        yield Row(f"bbox-{name}", "LoadError", mask=None, bbox=edges)
    yield Row("bbox-over-the-border", mask=None, bbox=(-5, -5, 9.5, 9.5))
    yield Row("bbox-with-a-mask", bbox=(100, 100, 120, 120))


def texts() -> Iterable[Row]:
    """Return valid and invalid prompts, seeds and params for an editor without a text encoder."""
    for name, prompt in {
        "null": None,
        "long": "x" * 5000,
        "emoji": "\U0001f469\U0001f3fd\u200d\U0001f680 \U0001f1e9\U0001f1ea",
        "shell": "$(touch x); `id` && rm -rf ~ | '\"\\",
        "right-to-left": "\u202e\u05d0\u05d1 \u0627",
        "control": "a\tred\r\ncircle\0\x1b[31m",
        "markup": "<script>alert(1)</script>",
    }.items():
        yield Row(f"prompt-{name}", prompt=prompt)
    yield Row("prompt-empty", prompt="", hints=("prompt-blank",))
    yield Row("prompt-whitespace", prompt=BLANK, hints=("prompt-blank",))
    yield Row("checkpoint-of-another-editor", checkpoint="files/none.safetensors")
    yield Row("checkpoint-with-a-null-byte", checkpoint="a\0b")
    yield Row("checkpoint-too-long", checkpoint="c" * 5000)
    yield Row("seed-zero", seed=0)
    yield Row("seed-largest", seed=2**63 - 1)
    yield Row("seed-negative", "LoadError", seed=-1)
    yield Row("params-empty", params="")
    yield Row("params-of-none", params="{}")
    for name, text in {"no-json": "{size: 3", "list": "[1, 2]", "number": "3", "text": '"size"'}.items():
        yield Row(f"params-{name}", "LoadError", params=text)
    yield Row("params-unknown", "ConfigError", params='{"no_such_parameter": 3}')


def keys() -> Iterable[Row]:
    """Return keys that cannot be used as file names."""
    for name, key in {
        "up": "../../../etc/passwd",
        "absolute": "/etc/passwd",
        "dots": "..",
        "hidden": ".ssh",
        "folders": "a/b\\c",
        "dash": "--help",
        "shell": "$(touch x);`id`&&rm -rf ~|'\"*?",
        "emoji": "\U0001f600",
        "newline": "a\nb\0c",
        "spaces": " a ",
        "percent": "%2E%2E%2F",
        "markup": "<img src=x onerror=alert(1)>",
        "long": "k" * 5000,
        "device": "CON",
        "upper": "KEY",
        "lower": "key",
    }.items():
        yield Row(f"key-{name}", key=key)


def exemplars() -> Iterable[Row]:
    """Return rows for an editor that needs an exemplar."""
    yield Row("good")
    yield Row("exemplar-null", "LoadError", exemplar=None)
    yield Row("exemplar-null-with-params", "LoadError", exemplar=None, params="{}")
    yield Row("exemplar-struct-of-nulls", "LoadError", exemplar="")
    yield Row("exemplar-missing", "ObjectMissing", exemplar="files/none.png")
    yield Row("exemplar-truncated", "LoadError", exemplar=bad_files.stored(LARGE, "JPEG")[:2000])
    yield Row("exemplar-one-pixel", exemplar=bad_files.stored(bad_files.picture(1, 1)))
    yield Row("exemplar-strip", exemplar=bad_files.stored(bad_files.picture(1, 5000)))
    yield Row("exemplar-animated", hints=("animated",), exemplar=bad_files.animated("GIF"))
    yield Row("prompt-empty", prompt="")


def prompts() -> Iterable[Row]:
    """Return rows for an editor that needs a prompt."""
    yield Row("good")
    for name, prompt in {"null": None, "empty": "", "whitespace": BLANK}.items():
        yield Row(f"prompt-{name}", "LoadError", prompt=prompt)
    yield Row("prompt-empty-with-params", "LoadError", prompt="", params="{}")
    yield Row("prompt-dot", prompt=".")


def tokens() -> Iterable[Row]:
    """Return rows for Blended Diffusion: prompts that its text encoder cannot hold are errors, never truncated."""
    yield Row("good")
    yield Row("tokens-over-77", "EditError", prompt=" ".join(["red"] * 80))
    yield Row("prompt-of-5000-characters", "EditError", prompt="a red circle " * 385)
    yield Row("prompt-of-5000-letters", "EditError", prompt="x" * 5000)
    yield Row("prompt-emoji", prompt="\U0001f600")
    yield Row("prompt-empty", prompt="", hints=("prompt-blank",))
    yield Row("prompt-whitespace", prompt=BLANK, hints=("prompt-blank",))
    yield Row("params-out-of-range", "ConfigError", params='{"skip_timesteps": -1}')
    yield Row("params-impossible-together", "ConfigError", params='{"skip_timesteps": 500}')
    yield Row("params-need-what-was-not-loaded", "ConfigError", params='{"background_preservation_loss": true}')
    yield Row("exemplar-null-though-it-guides", "LoadError", exemplar=None, params='{"guide": "exemplar"}')
    yield Row("exemplar-guides", prompt="x" * 5000, params='{"guide": "exemplar"}')


def sets() -> dict[str, list[Row]]:
    """Return the sets of rows by name."""
    rows = [*images(), *addresses(), *masks(), *boxes(), *texts(), *keys()]
    return {"rows": rows, "exemplars": [*exemplars()], "prompts": [*prompts()], "tokens": [*tokens()]}


def make(folder: Path) -> dict[str, pa.Table]:
    """Write the corpus, and return the sets of rows by name."""
    (folder / "files").mkdir(parents=True, exist_ok=True)
    tables = {}
    for name, rows in sets().items():
        for file in (cell for row in rows for cell in (row.image, row.mask) if isinstance(cell, File)):
            (folder / "files" / file.name).write_bytes(file.data)
        tables[name] = pa.Table.from_pylist([row.cells() for row in rows], schema=SCHEMA)
        pq.write_table(tables[name], folder / f"{name}.parquet")
    good = tables["tokens"].slice(0, 1).append_column("note", [["kept"]])
    pq.write_table(good, folder / "good.parquet")
    cases = [*wrong_manifests(folder / "manifests", good), *wrong_jobs(folder)]
    (folder / "cases.json").write_text(json.dumps(cases, indent=1))
    return tables


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python manifests/make_bad_inputs.py FOLDER")
    for name, table in make(Path(sys.argv[1])).items():
        print(f"{name}: {table.num_rows} rows")
