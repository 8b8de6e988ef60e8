"""Whether an edit moves an image in CLIP space as its source text differs from its target text.

A CLIP that an editor was tuned or guided with overrates it; use another one where the number matters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from retouch.errors import ConfigError, WeightsError
from retouch.models.prompt_templates import PLAIN, fill, imagenet_templates
from retouch.schema import Batch, Pixels

if TYPE_CHECKING:
    from torch import Tensor

    from retouch.models.clip import Clip

# Functions, because the sentences come from a library that imports torch.
TEMPLATES: Final[Mapping[str, Callable[[], Sequence[str]]]] = {"none": lambda: PLAIN, "imagenet": imagenet_templates}


class DirectionalClip:
    """``clip_direction``: cosine between the image's direction in CLIP space and the text's; -1..1, 0 for no edit.

    The image's direction is from the source to the whole edited image, the text's from ``source_prompt`` to ``prompt``.
    None if one of the prompts is empty or CLIP embeds them alike. ``clip_target``: 100 x cosine of the whole edited
    image and ``prompt`` as written; None if that is empty. Both look at the images' centre square.

    ``templates`` is ``none`` for prompts as written, or ``imagenet`` to average the text's direction over 79 sentences,
    as DiffusionCLIP's loss does. The default is ``none``: a manifest's prompts are sentences already, and
    "a plushie a photo of a cat." is no sentence; choose ``imagenet`` where prompts are nouns.
    """

    columns: ClassVar[Mapping[str, str]] = {"clip_direction": "float64", "clip_target": "float64"}

    def __init__(self, clip: Clip, templates: Sequence[str] = PLAIN) -> None:
        self.clip = clip
        self.templates = templates
        # Cache of one pair: a dataset is often edited by one pair of texts, and 158 sentences cost more than an image.
        self._cached: tuple[tuple[str, str], Tensor] | None = None

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str, templates: str = "none") -> Self:
        """Load the CLIP of role ``clip``.

        Raises:
            ConfigError: ``templates`` is not the name of a set.
            WeightsError: the role is missing, or its file does not load.
        """
        from retouch.models.clip import load_clip

        if templates not in TEMPLATES:
            raise ConfigError(f"metric clip_direction: no templates {templates!r}; there are: {', '.join(TEMPLATES)}")
        if "clip" not in weights:
            raise WeightsError("metric clip_direction needs weights of role 'clip'; name them in the job's weights")
        return cls(load_clip(weights["clip"], device), TEMPLATES[templates]())

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """Return ``clip_direction`` and ``clip_target`` per entry of ``edited`` [B,H,W,3] uint8."""
        sources = batch.source_prompt or [""] * len(batch)
        # One at a time: kernels round differently per batch size, and a score must not depend on its batch mates.
        entries = zip(batch.image, edited, sources, batch.prompt, strict=True)
        return [dict(zip(self.columns, self._scores(*entry), strict=True)) for entry in entries]

    def _scores(self, image: Pixels, edited: Pixels, source: str, target: str) -> tuple[float | None, float | None]:
        import torch

        from retouch.diffusion.clip_losses import direction_loss

        if not target.strip():
            return None, None
        with torch.no_grad():
            after = self._embedding(edited)
            text = self.clip.encode_text([target], truncate=True)
            similarity = 100 * float(torch.cosine_similarity(after, text)[0])
            direction = self._direction(source, target) if source.strip() else None
            if direction is None or not direction.any():
                return None, similarity
            return 1 - float(direction_loss(direction, self._embedding(image), after)[0]), similarity

    def _direction(self, source: str, target: str) -> Tensor:
        from retouch.diffusion.clip_losses import text_direction

        if self._cached is None or self._cached[0] != (source, target):
            texts = (self.clip.encode_text(fill(self.templates, text), truncate=True) for text in (source, target))
            self._cached = (source, target), text_direction(*texts)
        return self._cached[1]

    def _embedding(self, pixels: Pixels) -> Tensor:
        import torch

        from retouch.diffusion.clip_losses import clip_view

        x = torch.tensor(pixels).to(self.clip.device).permute(2, 0, 1)[None] / 127.5 - 1
        return self.clip.encode_image(clip_view(x, self.clip.image_size).clamp(0, 1))
