"""Time an editor alone, without Ray and files: images per second, time per part, use of the device."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final
from unittest.mock import patch

import torch

from retouch.cli.bench.measure import Memory, matrix_rate, now, operations
from retouch.cli.bench.profiler import REST, PartTimer
from retouch.cli.bench.subjects import Subject
from retouch.diffusion.augment import extended
from retouch.editors.blended_diffusion import sampler
from retouch.editors.runtime import deterministic_kernels
from retouch.models import devices

PARTS: Final = ("unet", "clip", "augmentation", "vae", REST)
GIGA: Final = 1e9
FIRST_ROW: Final = 10**6  # beyond the rows of a comparison, which the editor may have cached


def measure(subject: Subject, batches: Sequence[int], repeats: int) -> Iterator[dict[str, Any]]:
    """Yield a record per batch size, until one does not fit in the device's memory.

    Args:
        subject: the editor; hooks stay on its modules.
        batches: batch sizes.
        repeats: timed passes per size, after one warm-up.
    """
    timer = PartTimer(subject.device)
    timer.watch(subject.parts)
    rows = FIRST_ROW  # every pass gets new rows: DiffusionCLIP caches an image's latent
    # A function, not a module, so hooks cannot time it.
    with patch.object(sampler, "extended", timer.around("augmentation", extended)):
        flops = operations(lambda: subject.editor.edit_batch(subject.batch(1, rows)))
        dtype = getattr(torch, subject.editor.params.precision)
        with deterministic_kernels(subject.device):
            rate = matrix_rate(subject.device, dtype)
            about = _about(subject, flops, rate)
        for entries in batches:
            rows += 1000
            try:
                yield about | _measured(subject, entries, repeats, timer, rows, flops, rate)
            except torch.OutOfMemoryError:
                yield about | {"batch": entries, "error": "out of memory"}
                return


def _about(subject: Subject, flops: int, rate: float) -> dict[str, Any]:
    return {
        "editor": subject.name,
        "size": subject.size,
        "image_size": subject.image_size,
        "device": devices.name_of(subject.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "precision": subject.editor.params.precision,
        "gflop_per_image": round(flops / GIGA, 3),
        "matrix_gflops": round(rate / GIGA, 1),
    }


def _measured(
    subject: Subject, entries: int, repeats: int, timer: PartTimer, first: int, flops: int, rate: float
) -> dict[str, Any]:
    subject.editor.edit_batch(subject.batch(entries, first))  # warm-up: kernels, text embeddings, allocator
    memory = Memory(subject.device)
    resting = memory.restart()
    seconds, parts, calls = [], dict.fromkeys(PARTS, 0.0), 0
    for turn in range(1, repeats + 1):
        batch = subject.batch(entries, first + turn * entries)
        began = now(subject.device)
        timer.start()
        subject.editor.edit_batch(batch)
        found = timer.stop()
        seconds.append(now(subject.device) - began)
        for part, took in found.items():
            parts[part] += took
        calls += timer.calls["unet"]
    typical = median(seconds)
    return {
        "batch": entries,
        "repeats": repeats,
        "seconds": round(typical, 4),
        "seconds_min": round(min(seconds), 4),
        "seconds_max": round(max(seconds), 4),
        "images_per_second": round(entries / typical, 4),
        "unet_calls": calls // repeats,
        "seconds_per_unet_call": round(parts["unet"] / calls, 6),
        "shares": _shares(parts),
        "gflops": round(flops * entries / typical / GIGA, 1),
        "of_matrix_rate": round(flops * entries / typical / rate, 4),
        "resting_mib": round(resting),
        "peak_mib": round(memory.peak()),
    }


def _shares(parts: Mapping[str, float]) -> dict[str, float]:
    total = sum(parts.values())
    return {part: round(seconds / total, 4) for part, seconds in parts.items()}


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records as a Markdown table."""
    head = [
        "editor", "size", "batch", "images/s", "s a pass", "ms a UNet call", *PARTS, "GFLOP/image", "GFLOP/s",
        "of matrix rate", "peak MiB",
    ]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for record in records:
        if "error" in record:
            cells = [record["editor"], record["size"], str(record["batch"]), record["error"], *[""] * (len(head) - 4)]
        else:
            cells = _cells(record)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(record: Mapping[str, Any]) -> list[str]:
    return [
        record["editor"],
        record["size"],
        str(record["batch"]),
        f"{record['images_per_second']:.3g}",
        f"{record['seconds']:.3g}",
        f"{record['seconds_per_unet_call'] * 1000:.3g}",
        *(f"{record['shares'][part]:.0%}" for part in PARTS),
        f"{record['gflop_per_image']:.3g}",
        f"{record['gflops']:.3g}",
        f"{record['of_matrix_rate']:.0%}",
        str(record["peak_mib"]),
    ]
