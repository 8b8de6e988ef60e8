"""Decode one manifest row: fetch its files and turn them into uint8 arrays, or record why that failed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from retouch import plugins, storage
from retouch.errors import ConfigError, DeadlineExceeded, LoadError, Unavailable
from retouch.imaging import canvas, codec, colour, regions
from retouch.jobs.canvas import CanvasSpec
from retouch.jobs.config import ImagesSpec, MaskSpec
from retouch.manifests.columns import image_source
from retouch.manifests.samples import Sample, failed_to_load
from retouch.schema import Mask, Pixels


@dataclass(frozen=True)
class DecodeSpec:
    """How a row's files become pixels: settings of the decode stage."""

    inputs: frozenset[str]  # what the editor reads, as in ``plugins.Editor.inputs``
    mask: MaskSpec = field(default_factory=MaskSpec)
    images: ImagesSpec = field(default_factory=ImagesSpec)
    canvas: CanvasSpec | None = None  # borders that are added to the image; they are the mask then
    needs: frozenset[str] = frozenset()  # columns that a row without params of its own must fill
    params: Mapping[str, Any] = field(default_factory=dict)  # the job's; a row's own take precedence
    params_type: type | None = None  # the editor's Params if rows may have params, since these may need other columns
    output: str | None = None  # folder of the run, for markers of rows in flight; no markers if None
    seconds: float | None = None  # timeout of one row


def decode(request: Mapping[str, Any], spec: DecodeSpec) -> Sample:
    """Return a row's sample: with pixels, or with the reason why it has none.

    Raises:
        Unavailable: the storage cannot be reached, which is not the row's fault.
    """
    key, fingerprint = request["key"], request["fingerprint"]
    try:
        return _decode(request, spec)
    except Unavailable:
        raise
    except Exception as error:
        return failed_to_load(key, fingerprint, error)


def _decode(request: Mapping[str, Any], spec: DecodeSpec) -> Sample:
    params, seed = _params(request.get("params")), request.get("seed")
    if seed is not None and seed < 0:
        raise LoadError(f"seed {seed} is negative; give 0 or more, or leave the cell empty")
    _check_needs(request, params, spec)
    image = codec.decode_image(bytes_of(request["image"], "image"), max_pixels=spec.images.max_pixels)
    source, alpha, frame = _on_canvas(image, spec.canvas)
    size = (source.shape[0], source.shape[1])
    return Sample(
        key=request["key"],
        fingerprint=request["fingerprint"],
        prompt=request.get("prompt") or "",
        source_prompt=request.get("source_prompt"),
        negative_prompt=request.get("negative_prompt"),
        checkpoint=request.get("checkpoint"),
        seed=seed,
        params=params,
        source=source,
        alpha=alpha,
        profile=image.profile,
        converted_from=image.converted_from,
        mask=_mask(request, size, spec) if frame is None else _borders(request, frame, size),
        exemplar=_picture(request, "exemplar", spec),
        control=_control(request, size, spec),
        landmarks=request.get("landmarks"),
        frame=frame,
    )


def recorded_spec(job: Mapping[str, Any], inputs: frozenset[str] = frozenset()) -> DecodeSpec:
    """Return how the rows of a run were decoded.

    Args:
        job: the job in the run's record.
        inputs: columns to decode besides image and mask.
    """
    grown = job.get("canvas")
    mask = MaskSpec.model_validate(job.get("mask", {}))
    images = ImagesSpec.model_validate(job.get("images", {}))
    return DecodeSpec(inputs, mask, images, None if grown is None else CanvasSpec.model_validate(grown))


def _check_needs(request: Mapping[str, Any], params: Mapping[str, Any], spec: DecodeSpec) -> None:
    """Raise LoadError if the row lacks an input that its editor needs. A cell of white space counts as empty."""
    needs = spec.needs
    if params and spec.params_type is not None:
        try:
            checked = plugins.check_params(spec.params_type, {**spec.params, **params}, "this row's params")
        except ConfigError:
            return  # the engine reports it: the row's files are not at fault
        needs = getattr(checked, "needs", frozenset())
    if spec.canvas is not None and not spec.canvas.needs_prompt:
        needs = needs - {"prompt"}
    for name in sorted(needs):
        cell = image_source(request.get(name))
        if not (cell.strip() if isinstance(cell, str) else cell):
            raise LoadError(f"the {name} cell is empty, and the job's editor needs it; fill it in")


def _on_canvas(image: codec.Image, spec: CanvasSpec | None) -> tuple[Pixels, Any, regions.Region | None]:
    """Return an image and its alpha plane on their canvas, and its rectangle there; as they are without one."""
    if spec is None:
        return image.pixels, image.alpha, None
    height, width = image.pixels.shape[:2]
    frame, size = canvas.place((height, width), spec.margins)
    alpha = None if image.alpha is None else canvas.extend(image.alpha, frame, size)
    return canvas.extend(image.pixels, frame, size), alpha, frame


def _borders(request: Mapping[str, Any], frame: regions.Region, size: regions.Size) -> Mask:
    """Return the mask of a canvas's new borders."""
    if given := [name for name in ("mask", "bbox") if request.get(name) is not None]:
        raise LoadError(
            f"the row has a {given[0]}, and the job's canvas paints only beyond the image; leave the cell empty, or "
            "edit inside the image with a job of its own"
        )
    mask = canvas.new_area(frame, size)
    if not mask.any():
        raise LoadError(f"the canvas adds no pixel to an image of {size[1]}x{size[0]}; give larger margins")
    return mask


def _mask(request: Mapping[str, Any], size: tuple[int, int], spec: DecodeSpec) -> Any:
    cell, bbox = request.get("mask"), request.get("bbox")
    if cell is not None:
        how = spec.mask
        data = bytes_of(cell, "mask")
        limit = spec.images.max_pixels
        mask = codec.decode_mask(
            data, size, source=how.source, invert=how.invert, threshold=how.threshold, max_pixels=limit
        )
        if not mask.any():
            raise LoadError(_nothing_edited(codec.mask_plane(data, source=how.source, max_pixels=limit), how))
    elif bbox is not None:
        mask = codec.mask_from_bbox(bbox, size)
    else:
        return regions.whole(size)
    if mask.any() and not (mask := regions.grown(mask, spec.mask.grow)).any():
        raise LoadError(f"mask.grow: {spec.mask.grow} leaves nothing of the mask; narrow it by less")
    return mask


def _nothing_edited(plane: codec.Plane, how: MaskSpec) -> str:
    """Return why a mask whose plane [H, W] was read marks no pixel."""
    if how.invert:
        return "the mask is white everywhere and mask.invert edits what is black, so nothing would be edited"
    if not plane.any():
        white = "white (255, or 65535 of 16 bits) marks what to edit"
        return f"the mask is black everywhere, so nothing would be edited; {white}"
    largest = int(plane.max())
    return (
        f"the mask is black everywhere, so nothing would be edited: its largest value is {largest}, and mask.threshold "
        f"{how.threshold}; set mask: {{threshold: {largest}}} to edit what has it, threshold: 1 for all that is not 0"
    )


def _picture(request: Mapping[str, Any], column: str, spec: DecodeSpec) -> Pixels | None:
    """Return the image [h, w, 3] of another column as a viewer shows it.

    It is None if the editor does not read the column or the cell is empty.
    """
    cell = request.get(column) if column in spec.inputs else None
    if cell is None:
        return None
    # Black is nothing in a map of edges, poses or depths.
    background = colour.BLACK if column == "control" else colour.WHITE
    return codec.decode_image(bytes_of(cell, column), column, max_pixels=spec.images.max_pixels).as_seen(background)


def _control(request: Mapping[str, Any], size: tuple[int, int], spec: DecodeSpec) -> Pixels | None:
    """Return the control image, scaled to the image's size (H, W). Raise LoadError if its shape is another one."""
    control = _picture(request, "control", spec)
    if control is None or control.shape[:2] == size:
        return control
    height, width = control.shape[:2]
    if abs(height * size[1] - width * size[0]) > max(height, width, *size):  # over a pixel after scaling
        raise LoadError(
            f"the control image is {width}x{height} and the image {size[1]}x{size[0]}, of another shape; "
            "make it from the same image"
        )
    return regions.resize(control, *size)


def bytes_of(cell: Any, column: str) -> bytes:
    """Return the bytes of an image cell: a URI, raw bytes, or a ``{bytes, path}`` struct (bytes first).

    Raises:
        LoadError: the cell is empty; ``column`` names it.
        StorageError: there is no such object, or it cannot be read.
    """
    source = image_source(cell)
    if source is None or source == "":
        raise LoadError(f"the {column} cell is empty")
    return source if isinstance(source, bytes) else storage.read_bytes(source)


def _params(cell: Any) -> dict[str, Any]:
    """Return a row's overrides from a JSON text, a struct or a map; a null field of a struct overrides nothing."""
    if cell is None or cell == "":
        return {}
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError as error:
            raise LoadError(f"params is not JSON: {error}") from None
    elif isinstance(cell, Sequence):
        cell = dict(cell)  # an Arrow map's pairs
    if not isinstance(cell, Mapping):
        raise LoadError(f"params holds {type(cell).__name__}, not a mapping of parameters")
    return {str(name): value for name, value in cell.items() if value is not None}


def timed_out(request: Mapping[str, Any], spec: DecodeSpec) -> Sample:
    """Return a failed sample for a row that exceeded the decode timeout."""
    error = DeadlineExceeded(f"not fetched and decoded after {spec.seconds:g} s")
    return failed_to_load(request["key"], request["fingerprint"], error)
