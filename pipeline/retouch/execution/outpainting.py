"""Canvases in the engine: the passes that paint the new strips of a row, each on what the passes before it painted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from retouch.errors import ConfigError, EditError, RowError
from retouch.execution.candidates import Entry, Row, StripPass
from retouch.execution.specs import EngineSpec
from retouch.imaging import canvas
from retouch.imaging.regions import Region, Size, fit_region
from retouch.manifests.samples import Sample
from retouch.schema import EditResult, Pixels


def refuse_unfit(name: str, editor: Any) -> None:
    """Raise ConfigError if an editor, or its class, cannot fill a mask."""
    if not getattr(editor, "fills_masks", "mask" in editor.inputs):
        raise ConfigError(
            f"canvas: editor {name} fills no masks with these weights and params, so it cannot paint new borders; "
            "take blended_diffusion, blended_latent, an inpainting pipeline of diffusers or another editor that does"
        )


def strip_passes(
    sample: Sample, network_size: int, size_of: Callable[[Region], Size], spec: EngineSpec
) -> tuple[StripPass, ...]:
    """Return the passes of a row on a canvas; none if it is on none.

    Args:
        sample: with its source on the canvas.
        network_size: S, the network's height and width, or the larger of them.
        size_of: the network's size (H, W) for a part of an image.
        spec: of the engine.
    """
    if sample.frame is None or spec.canvas is None or sample.source is None:
        return ()
    if spec.fit == "face":
        raise EditError("fit: face shows a face to the network, and a canvas is painted beyond it; take fit: auto")
    height, width = sample.source.shape[:2]
    found = []
    for strip in canvas.strips(sample.frame, (height, width), network_size, spec.canvas.steps):
        mask = strip.mask
        view = replace(fit_region(mask, network_size, mode=spec.fit, context=spec.context), feather=spec.feather)
        size = size_of(view)
        control = None if sample.control is None else view.extract(sample.control[strip.after.slices], size)
        prompt = spec.canvas.prompt(strip.side)
        small = view.extract_mask(mask, size)
        found.append(StripPass(strip, view, small, control, sample.prompt if prompt is None else prompt))
    return tuple(found)


def outpaint(entries: Sequence[Entry], edit: Callable[[Sequence[Entry]], list[EditResult]]) -> list[EditResult]:
    """Return each entry's finished canvas, [H, W, 3] at native size, with the scores of its passes together.

    An entry whose pass fails takes no part in later ones; its error is that pass's.

    Args:
        entries: with the same number of passes, and the same network size in each.
        edit: makes one pass of at most these entries.
    """
    painted: list[Pixels] = [_old_image(entry.row) for entry in entries]
    scores: list[list[Mapping[str, Any]]] = [[] for _ in entries]
    errors: dict[int, RowError] = {}
    for number in range(len(entries[0].row.strips)):
        going = [place for place in range(len(entries)) if place not in errors]
        if not going:
            break
        extended = {place: entries[place].row.strips[number].strip.extend(painted[place]) for place in going}
        results = edit([_entry_of_pass(entries[place], number, extended[place]) for place in going])
        for place, result in zip(going, results, strict=True):
            step = entries[place].row.strips[number]
            painted[place] = step.view.composite(extended[place], result.image, step.strip.mask)
            scores[place].append(result.metrics)
            if result.error is not None:
                errors[place] = result.error
    return [
        EditResult(entry.row.image if place in errors else painted[place], _together(scores[place]), errors.get(place))
        for place, entry in enumerate(entries)
    ]


def _old_image(row: Row) -> Pixels:
    assert row.sample.frame is not None
    return row.image[row.sample.frame.slices]


def _entry_of_pass(entry: Entry, number: int, extended: Pixels) -> Entry:
    """Return an entry as one pass sees it, with a seed of its own."""
    from retouch.diffusion.noise import derive_seed  # imports torch, which the engine itself does not need

    step = entry.row.strips[number]
    size: Size = (step.mask.shape[0], step.mask.shape[1])
    row = replace(
        entry.row,
        sample=replace(entry.row.sample, prompt=step.prompt),
        image=step.view.extract(extended, size),
        mask=step.mask,
        control=step.control,
    )
    return replace(entry, row=row, seed=derive_seed(entry.seed, "canvas", step.strip.side, step.strip.number))


def _together(passes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one value per score of several passes: the mean of numbers, the largest of counts, the last of others."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for scores in passes for name in scores):
        values = [scores[name] for scores in passes if scores.get(name) is not None]
        if values and all(isinstance(value, int) for value in values):
            found[name] = max(values)
        elif values and all(isinstance(value, int | float) for value in values):
            found[name] = sum(values) / len(values)
        else:
            found[name] = values[-1] if values else None
    return found
