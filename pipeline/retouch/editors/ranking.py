"""Ranks candidates by CLIP: how far the edited region is from the prompt."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from retouch.diffusion.guidance import cosine_distance
from retouch.errors import EditError
from retouch.models.clip import Clip

KEPT = 10_000  # texts; a dataset with one prompt per row would grow the cache without bound


class PromptDistance:
    """``clip_distance``: 0 (like the prompt) to 2, of an image's masked region, grey outside the mask.

    Entries are scored alone, so that a score depends on no other entry. Of a prompt that is longer than CLIP reads, the
    beginning counts.
    """

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self._texts: dict[str, Tensor] = {}

    def of(self, image: Tensor, mask: Tensor, prompt: str) -> float | None:
        """Return the distance; None for an empty prompt.

        Args:
            image: [3,H,W] in [-1, 1].
            mask: [1,H,W] in {0, 1}.
            prompt: what the region should show.
        """
        text = prompt.strip()
        if not text:
            return None
        if text not in self._texts:
            if len(self._texts) >= KEPT:
                self._texts.clear()
            self._texts[text] = self.clip.encode_text([text], truncate=True).float()
        size = self.clip.image_size
        shown = (image.clamp(-1, 1) * mask)[None].float()
        small = F.interpolate(shown, (size, size), mode="bilinear", align_corners=False, antialias=True)
        with torch.no_grad():
            embedded = self.clip.encode_image((small + 1) / 2, normalise=True).float()
            distance = float(cosine_distance(embedded, self._texts[text])[0])
        if distance != distance:
            raise EditError("clip_distance is not finite; look at the weights of clip")
        return distance
