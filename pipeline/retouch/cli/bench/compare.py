"""An editor beside what it could be replaced by, turn by turn in one process: same networks, same steps, same rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

from retouch.cli.bench.measure import now
from retouch.cli.bench.original_blended_diffusion import Original
from retouch.cli.bench.subjects import Subject
from retouch.editors.steady import steady_kernels
from retouch.models.paint_by_example import LatentNetworks
from retouch.schema import Batch

LARGE: Final = 8  # entries of our batch; the others take one image a run
PUBLISHED_SCHEDULER: Final = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
LEFT_OUT: Final = "the original's own loop: it is compared where --original DIR names a clone of it"
Run = Callable[[Batch], Any]


def compare(subject: Subject, repeats: int, original: Path | None = None) -> Iterator[dict[str, Any]]:
    """Records of how many times as long another way takes for an image.

    Args:
        subject: ours.
        repeats: turns; every turn times each way once, on rows of its own.
        original: a clone of the authors' repository, for Blended Diffusion; None leaves it out and says so.
    """
    edit = subject.editor.edit_batch
    ways: dict[str, tuple[int, Run]] = {"ours, batch 1": (1, edit), f"ours, batch {LARGE}": (LARGE, edit)}
    if subject.name == "paint_by_example":
        ways["diffusers' pipeline, batch 1"] = (1, Diffusers(subject.editor).edit)
    if subject.plain is not None and original is not None:
        ways["the original, batch 1"] = (1, Original(original, subject.editor, *subject.plain).edit)
    seconds = alternately(subject, ways, repeats)
    for slower in [way for way in ways if way != f"ours, batch {LARGE}"]:
        for faster in [way for way in ways if way.startswith("ours") and way != slower]:
            if not (slower.startswith("ours") and faster == "ours, batch 1"):
                yield _record(subject, slower, faster, seconds)
    if subject.name == "blended_diffusion" and original is None:
        yield {"editor": subject.name, "size": subject.size, "left_out": LEFT_OUT}


def alternately(subject: Subject, ways: Mapping[str, tuple[int, Run]], repeats: int) -> dict[str, list[float]]:
    """Seconds an image of each way, one number a turn, after a turn that is not timed."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    first = 0
    for _ in range(repeats + 1):
        for way, (entries, run) in ways.items():
            batch = subject.batch(entries, first)
            first += entries
            with steady_kernels(subject.device):  # as many threads for all
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
    """Records as Markdown, and a line for what was left out."""
    compared = [record for record in records if "ratio" in record]
    head = ["editor", "size", "how many times as long an image takes", "ratio (of single turns)", "s an image"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"] if compared else []
    for record in compared:
        cells = [
            record["editor"],
            record["size"],
            f"{record['slower']} against {record['faster']}",
            f"{record['ratio']:.2f} ({record['ratio_min']:.2f} to {record['ratio_max']:.2f})",
            f"{record['seconds_slower']:.3g} / {record['seconds_faster']:.3g}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    left_out = [f"{record['editor']}: left out {record['left_out']}" for record in records if "left_out" in record]
    return "\n".join([*lines, *([""] if lines and left_out else []), *left_out])


class Diffusers:
    """diffusers' own pipeline at its defaults, on networks, steps and scale of an editor of ours, one image a run."""

    def __init__(self, ours: Any) -> None:
        from diffusers import PNDMScheduler
        from diffusers.pipelines.deprecated.paint_by_example import PaintByExamplePipeline

        networks: LatentNetworks = ours.networks
        self._ours = ours
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it is deprecated
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
        """Edit the batch's only entry; the result is thrown away."""
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


def _image_encoder(networks: LatentNetworks) -> Any:
    from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder
    from transformers import CLIPVisionConfig

    config = CLIPVisionConfig(**networks.encoder.vision_config.to_dict())
    encoder = PaintByExampleImageEncoder(config, proj_size=networks.config.context_dim)
    encoder.load_state_dict(networks.encoder.state_dict())
    return encoder.to(next(networks.unet.parameters()).device).eval()
