"""Compare an editor with alternatives in turns in one process: same networks, same steps, same rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final

import torch

from retouch.cli.bench.measure import now
from retouch.cli.bench.subjects import Subject
from retouch.editors.runtime import deterministic_kernels
from retouch.models.paint_by_example import PaintByExampleNetworks
from retouch.schema import Batch

LARGE: Final = 8  # entries of our batch; the alternatives take one image per call
PUBLISHED_SCHEDULER: Final = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
Run = Callable[[Batch], Any]


def compare(subject: Subject, repeats: int, others: Mapping[str, Run] | None = None) -> Iterator[dict[str, Any]]:
    """Yield records of how many times as long one way takes per image as another.

    Args:
        subject: our editor.
        repeats: turns; every turn times each way once, on new rows.
        others: further ways by name, each of which takes batches of one image.
    """
    edit = subject.editor.edit_batch
    ways: dict[str, tuple[int, Run]] = {"ours, batch 1": (1, edit), f"ours, batch {LARGE}": (LARGE, edit)}
    if subject.name == "paint_by_example":
        ways["diffusers' pipeline, batch 1"] = (1, Diffusers(subject.editor).edit)
    ways |= {name: (1, run) for name, run in (others or {}).items()}
    seconds = alternately(subject, ways, repeats)
    for slower in [way for way in ways if way != f"ours, batch {LARGE}"]:
        for faster in [way for way in ways if way.startswith("ours") and way != slower]:
            if not (slower.startswith("ours") and faster == "ours, batch 1"):
                yield _record(subject, slower, faster, seconds)


def alternately(subject: Subject, ways: Mapping[str, tuple[int, Run]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds per image of each way in each turn, after one turn that is not timed."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    first = 0
    for _ in range(repeats + 1):
        for way, (entries, run) in ways.items():
            batch = subject.batch(entries, first)
            first += entries
            with deterministic_kernels(subject.device):  # the same number of threads for all
                began = now(subject.device)
                run(batch)
                seconds[way].append((now(subject.device) - began) / entries)
    return {way: taken[1:] for way, taken in seconds.items()}


def _record(subject: Subject, slower: str, faster: str, seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    ratios = [s / f for s, f in zip(seconds[slower], seconds[faster], strict=True)]
    return {
        "editor": subject.name,
        "size": subject.size,
        "slower": slower,
        "faster": faster,
        "turns": len(ratios),
        "seconds_slower": round(median(seconds[slower]), 4),
        "seconds_faster": round(median(seconds[faster]), 4),
        "ratio": round(median(seconds[slower]) / median(seconds[faster]), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records as a Markdown table; empty if there are none."""
    head = ["editor", "size", "how many times as long an image takes", "ratio (of single turns)", "s per image"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"] if records else []
    for record in records:
        cells = [
            record["editor"],
            record["size"],
            f"{record['slower']} against {record['faster']}",
            f"{record['ratio']:.2f} ({record['ratio_min']:.2f} to {record['ratio_max']:.2f})",
            f"{record['seconds_slower']:.3g} / {record['seconds_faster']:.3g}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


class Diffusers:
    """diffusers' pipeline at its defaults, with the networks, steps and scale of our editor, one image per call."""

    def __init__(self, ours: Any) -> None:
        from diffusers import PNDMScheduler
        from diffusers.pipelines.deprecated.paint_by_example import PaintByExamplePipeline

        networks: PaintByExampleNetworks = ours.networks
        self._ours = ours
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a deprecation warning
            self._pipeline = PaintByExamplePipeline(
                vae=networks.vae,
                image_encoder=_image_encoder(networks),
                unet=networks.unet,
                scheduler=PNDMScheduler(**PUBLISHED_SCHEDULER),
                safety_checker=None,
                feature_extractor=None,
            )
        self._pipeline.set_progress_bar_config(disable=True)

    def edit(self, batch: Batch) -> None:
        """Edit the batch's only entry and discard the result."""
        ours = self._ours
        assert batch.exemplar is not None
        pixels = [torch.from_numpy(x).permute(0, 3, 1, 2).float() / 127.5 - 1 for x in (batch.image, batch.exemplar)]
        size = (ours.networks.reference_size,) * 2
        example = torch.nn.functional.interpolate(pixels[1], size, mode="bicubic", antialias=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._pipeline(
                example_image=example.to(ours.device),
                image=pixels[0].to(ours.device),
                mask_image=torch.from_numpy(batch.mask)[:, None].float().to(ours.device),
                num_inference_steps=ours.params.steps,
                guidance_scale=ours.params.guidance_scale,
                generator=torch.Generator().manual_seed(batch.seed[0]),
                output_type="np",
            )


def _image_encoder(networks: PaintByExampleNetworks) -> Any:
    from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder
    from transformers import CLIPVisionConfig

    config = CLIPVisionConfig(**networks.encoder.vision_config.to_dict())
    encoder = PaintByExampleImageEncoder(config, proj_size=networks.config.context_dim)
    encoder.load_state_dict(networks.encoder.state_dict())
    return encoder.to(next(networks.unet.parameters()).device).eval()
