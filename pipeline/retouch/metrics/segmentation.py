"""Whether an edit left things where they were: the segmentations of source and edited image compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from retouch.errors import WeightsError
from retouch.schema import Batch, Pixels

if TYPE_CHECKING:
    from torch import Tensor

    from retouch.models.deeplab import Segmenter

IMAGE_SIZE: Final = 520  # px of the shorter side; the network's own default, whose module imports torch


class SegmentationConsistency:
    """``segmentation_agreement``: share of pixels with the same class in source and edited image, 0..1.

    ``segmentation_miou``: intersection over union, averaged over the classes that either image shows (background
    included), 0..1. An object that became another one (a dog a bear) changes its class: these numbers are for edits
    that keep the kind of object. Over the whole image, at the network's size.
    """

    columns: ClassVar[Mapping[str, str]] = {"segmentation_agreement": "float64", "segmentation_miou": "float64"}

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str, image_size: int = IMAGE_SIZE) -> Self:
        """Load the DeepLabv3 of role ``segmentation``, torchvision's ``deeplabv3_resnet50``.

        Raises:
            WeightsError: the role is missing, or its file does not load.
        """
        from retouch.models.deeplab import load_segmenter

        if "segmentation" not in weights:
            raise WeightsError(
                "metric segmentation needs weights of role 'segmentation' (torchvision's deeplabv3_resnet50); name them"
            )
        return cls(load_segmenter(weights["segmentation"], device, image_size))

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """Return both numbers per entry of ``edited`` [B,H,W,3] uint8."""
        # One at a time: kernels round differently per batch size, and a score must not depend on its batch mates.
        pairs = ((self._labels(a), self._labels(b)) for a, b in zip(batch.image, edited, strict=True))
        return [{"segmentation_agreement": agreement(*pair), "segmentation_miou": mean_iou(*pair)} for pair in pairs]

    def _labels(self, pixels: Pixels) -> Tensor:
        import torch

        x = torch.tensor(pixels).to(self.segmenter.device).permute(2, 0, 1)[None] / 255
        return self.segmenter.labels(x)[0]


def agreement(a: Tensor, b: Tensor) -> float:
    """Return the share of pixels at which two label maps are equal."""
    return float((a == b).double().mean())


def mean_iou(a: Tensor, b: Tensor) -> float:
    """Return the mean intersection over union of the labels that either map has."""
    import torch

    ious = []
    for label in torch.cat([a.flatten(), b.flatten()]).unique():
        in_a, in_b = a == label, b == label
        ious.append(float((in_a & in_b).sum()) / float((in_a | in_b).sum()))
    return sum(ious) / len(ious)
