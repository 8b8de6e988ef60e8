"""Manifests and jobs that are invalid as a whole, each with the expected exit code and error.

A case is ``{case, check, exit_code, error, foreseen}``: the argument of ``retouch check`` (or ``retouch run``, for a
job), relative to the corpus, and the expected result. If ``foreseen`` is false, the fault shows only when the networks
run, and ``error`` is that of every row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from safetensors.numpy import load_file, save_file

from manifests import bad_files

SHIPPED: Final = Path(__file__).parents[1] / "pipeline/retouch/models/embedded/shapes"
CANARY: Final = "canary"  # a file that exists if code in a checkpoint was run
LATIN: Final = "caf\u00e9".encode("latin-1")  # not UTF-8
Case = dict[str, Any]


def wrong_manifests(folder: Path, good: pa.Table) -> list[Case]:
    """Write the manifests and return their cases."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "no-files").mkdir(exist_ok=True)
    (folder / "parts").mkdir(exist_ok=True)
    pq.write_table(good, folder / "parts" / "1.parquet")
    pq.write_table(_with(good, seed=pa.array(["three"])).drop_columns(["key"]), folder / "parts" / "2.parquet")
    whole = (folder / "parts" / "1.parquet").read_bytes()
    for name, data in {"empty": b"", "text": b"key,image\na,a.png\n", "truncated": whole[: len(whole) // 2]}.items():
        (folder / f"{name}.parquet").write_bytes(data)
    tables = dict(_tables(good))
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    wrong = ["missing", "empty", "text", "truncated", *tables]
    cases = [_case(name, f"manifests/{name}.parquet", "ManifestError") for name in wrong]
    return [*cases, *(_case(name, f"manifests/{name}", "ManifestError") for name in ("no-files", "parts"))]


def _tables(good: pa.Table) -> Iterable[tuple[str, pa.Table]]:
    twice = pa.concat_tables([good, good])
    yield "no-image-column", good.drop_columns(["image"])
    yield "duplicate-keys", twice
    yield "rows-alike-without-keys", twice.drop_columns(["key"])
    yield "key-null", _with(good, key=pa.array([None], pa.string()))
    yield "key-empty", _with(good, key=pa.array([""]))
    yield "key-float", _with(good, key=pa.array([0.5]))
    yield "image-number", _with(good, image=pa.array([3]))
    yield "image-list", _with(good, image=pa.array([["a.png"]]))
    yield "image-other-struct", _with(good, image=pa.array([{"url": "a.png"}]))
    yield "mask-boolean", _with(good, mask=pa.array([True]))
    yield "prompt-number", _with(good, prompt=pa.array([3]))
    yield "prompt-binary", _with(good, prompt=pa.array([b"red"]))
    yield "prompt-list", _with(good, prompt=pa.array([["red"]]))
    yield "prompt-not-utf-8", _with(good, prompt=_not_utf_8())
    yield "key-not-utf-8", _with(good, key=_not_utf_8())
    yield "address-not-utf-8", _with(good, image=_not_utf_8())
    yield "note-not-utf-8", _with(good, note=_not_utf_8())
    yield "notes-not-utf-8", _with(good, note=pa.ListArray.from_arrays(pa.array([0, 1]), _not_utf_8()))
    yield "bbox-text", _with(good, bbox=pa.array(["0 0 4 4"]))
    yield "bbox-of-lists", _with(good, bbox=pa.array([[[0, 0], [4, 4]]]))
    yield "landmarks-text", good.append_column("landmarks", pa.array(["1 2"]))
    yield "seed-text", _with(good, seed=pa.array(["3"]))
    yield "seed-fraction", _with(good, seed=pa.array([0.5]))
    yield "seed-too-large", _with(good, seed=pa.array([2**64 - 1], pa.uint64()))
    yield "params-number", _with(good, params=pa.array([3]))
    yield "column-twice", pa.Table.from_arrays([*good.columns, good["note"]], [*good.column_names, "note"])
    hiding = good.append_column("width", pa.array([3]))
    yield "columns-for-one-result", hiding.append_column("input_width", pa.array([3]))


def wrong_jobs(folder: Path) -> list[Case]:
    """Write jobs and their weights, and return their cases."""
    (folder / "jobs").mkdir(parents=True, exist_ok=True)
    cases = []
    for name, text in {"empty": "", "no-yaml": "a: [", "list": "- a", "binary": "\0"}.items():
        (folder / "jobs" / f"{name}.yaml").write_text(text)
        cases.append(_case(f"job-{name}", f"jobs/{name}.yaml", "ConfigError"))
    (folder / "jobs" / "folder.yaml").mkdir(exist_ok=True)
    (folder / "jobs" / "latin.yaml").write_bytes(b"name: " + LATIN)
    cases += [_case(f"job-{name}", f"jobs/{name}.yaml", "ConfigError") for name in ("missing", "folder", "latin")]
    for name, (error, changes) in {**_wrong_fields(), **_wrong_weights(folder / "weights")}.items():
        cases.append(_job(folder, name, error, changes))
    for name, changes in _networks(folder / "weights").items():
        cases.append({**_job(folder, name, "EditError", changes), "exit_code": 1, "foreseen": False})
    return cases


def _wrong_fields() -> dict[str, tuple[str, Mapping[str, Any]]]:
    return {
        "unknown-key": ("ConfigError", {"colour": "red"}),
        "kind-unknown": ("ConfigError", {"kind": "edict"}),
        "name-of-a-path": ("ConfigError", {"name": "../up"}),
        "candidates-none": ("ConfigError", {"candidates": 0}),
        "keep-more-than-made": ("ConfigError", {"keep": 3}),
        "seed-negative": ("ConfigError", {"seed": -1}),
        "batch-of-none": ("ConfigError", {"ray": {"batch_size": 0}}),
        "threshold-of-256": ("ConfigError", {"mask": {"threshold": 256}}),
        "threshold-of-nothing": ("ConfigError", {"quality": {"mode": "reject", "thresholds": {"beauty": 1}}}),
        "param-unknown": ("ConfigError", {"editor.params": {"steps": 3}}),
        "param-of-another-type": ("ConfigError", {"editor.params": {"aug_num": "many"}}),
        "param-out-of-range": ("ConfigError", {"editor.params": {"aug_num": 0}}),
        "params-impossible-together": ("ConfigError", {"editor.params": {"timesteps": 5, "skip_timesteps": 5}}),
        "latents-for-nothing": ("ConfigError", {"latents": "latents"}),
        "editor-unknown": ("PluginError", {"editor.name": "blender"}),
        "editor-not-importable": ("PluginError", {"editor.name": "no.such.module:Editor"}),
        "metric-unknown": ("PluginError", {"metrics": ["beauty"]}),
        "sink-unknown": ("PluginError", {"sink": "drain"}),
        "manifest-missing": ("ManifestError", {"manifest": "none.parquet"}),
        "manifest-of-unknown-scheme": ("ManifestError", {"manifest": "gopher://x/m.parquet"}),
        "manifest-with-a-null-byte": ("ManifestError", {"manifest": "a\0b.parquet"}),
        "manifest-with-a-name-too-long": ("ManifestError", {"manifest": f"{'m' * 300}.parquet"}),
        "manifests-none": ("ManifestError", {"manifest": []}),
        "metric-without-weights": ("WeightsError", {"metrics": ["identity_similarity"]}),
    }


def _wrong_weights(folder: Path) -> dict[str, tuple[str, Mapping[str, Any]]]:
    folder.mkdir(parents=True, exist_ok=True)
    canary = str(folder.parent / CANARY)
    unet = (SHIPPED / "unet.safetensors").read_bytes()
    contents = {
        "text.safetensors": b"version https://git-lfs.github.com/spec/v1\n",
        "empty.safetensors": b"",
        "header-cut.safetensors": unet[:100],
        "data-cut.safetensors": unet[:20_000],
        "other-network.safetensors": bad_files.safetensors({"conv.weight": (4, 4)}),
        "text.pt": b"not a checkpoint",
        "empty.pt": b"",
        "numbers.pt": bad_files.zipped_pickle({"a": 1}),
        "code.pt": bad_files.code_in_a_pickle(canary, zipped=True),
        "bare-code.pt": bad_files.code_in_a_pickle(canary, zipped=False),
    }
    wrong: dict[str, str] = {}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
        wrong[name] = str(folder / name)
    wrong |= {
        "missing": str(folder / "none.safetensors"),
        "of-another-role": str(SHIPPED / "clip.safetensors"),
        "of-another-content": f"{SHIPPED / 'unet.safetensors'}#sha256={'0' * 64}",
        "unknown-scheme": "gopher://x/unet.safetensors",
    }
    family = {"no-json": "{", "of-nothing": "{}", "with-a-file-missing": '{"unet": "none.safetensors"}'}
    for name, text in family.items():
        (folder / f"family-{name}").mkdir(exist_ok=True)
        (folder / f"family-{name}" / "family.json").write_text(text)
    whole: dict[str, Any] = {f"family-{name}": str(folder / f"family-{name}") for name in family}
    whole |= {"family-unknown": "embedded:circles", "role-missing": str(SHIPPED / "unet.safetensors")}
    roles = {f"unet-{name}": {"family": "embedded:shapes", "unet": address} for name, address in wrong.items()}
    roles["clip-with-code"] = {"family": "embedded:shapes", "clip": str(folder / "code.pt")}
    return {f"weights-{name}": ("WeightsError", {"editor.weights": spec}) for name, spec in {**roles, **whole}.items()}


def _networks(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Write networks that load but whose output is not an image. Return changes of jobs that use them."""
    unet, vae = load_file(SHIPPED / "unet.safetensors"), load_file(SHIPPED / "exemplar_vae.safetensors")
    first = next(name for name, value in unet.items() if value.dtype.kind == "f")
    save_file({**unet, first: np.full_like(unet[first], np.nan)}, folder / "nan.safetensors")
    (folder / "nan.json").write_bytes((SHIPPED / "unet.json").read_bytes())
    save_file({name: np.zeros_like(value) for name, value in vae.items()}, folder / "constant.safetensors")
    (folder / "constant.json").write_bytes((SHIPPED / "exemplar_vae.json").read_bytes())
    shapes = {"family": "embedded:shapes"}
    exemplar = {"editor.name": "paint_by_example", "editor.params": {"steps": 2}}
    dead = {**shapes, "exemplar_vae": str(folder / "constant.safetensors")}
    return {
        "output-nan": {"editor.weights": {**shapes, "unet": str(folder / "nan.safetensors")}},
        "output-overflows": {"editor.params": {"timesteps": 4, "skip_timesteps": 1, "clip_guidance_lambda": 1e38}},
        "output-constant": {**exemplar, "editor.weights": dead},
    }


def _job(folder: Path, name: str, error: str, changes: Mapping[str, Any]) -> Case:
    """Write a job that is valid except for ``changes``, and return its case; a dotted key is a field of ``editor``."""
    steps = {"timesteps": 4, "skip_timesteps": 1}
    editor = {"name": "blended_diffusion", "weights": "embedded:shapes", "params": steps}
    editor |= {key.removeprefix("editor."): value for key, value in changes.items() if key.startswith("editor.")}
    job = {
        "name": name,
        "manifest": str(folder / "good.parquet"),
        "output": str(folder / "runs" / name),
        "editor": editor,
        "ray": {"batch_size": 1},
        "max_failure_rate": 0.0,
        **{key: value for key, value in changes.items() if not key.startswith("editor.")},
    }
    (folder / "jobs" / f"{name}.yaml").write_text(yaml.safe_dump(job))
    return _case(name, f"jobs/{name}.yaml", error)


def _case(name: str, check: str, error: str) -> Case:
    return {"case": name, "check": check, "exit_code": 2, "error": error, "foreseen": True}


def _with(table: pa.Table, **columns: pa.Array) -> pa.Table:
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    return table


def _not_utf_8() -> pa.Array:
    """Return a string column whose bytes are not UTF-8."""
    return pa.array([LATIN], pa.binary()).view(pa.string())
