"""Whether an edit goes the way from its source text to its target text, by CLIP. Knows neither editors nor files.

A CLIP that an editor was tuned or guided with flatters it; judge with another one where the number matters. Importing
this brings no torch, see ``editors.declared``.
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

# Made when asked for: the sentences come from a library that brings torch.
TEMPLATES: Final[Mapping[str, Callable[[], Sequence[str]]]] = {"none": lambda: PLAIN, "imagenet": imagenet_templates}


class DirectionalClip:
    """``clip_direction``: cosine between the image's way through CLIP's space and the text's; -1..1, 0 for no edit.

    The image's way is from the source to the whole edited image, the text's from ``source_prompt`` to ``prompt``. None
    where one of the two is empty or CLIP reads them alike. ``clip_target``: 100 x cosine of the whole edited image and
    ``prompt`` as it is written; None where that is empty. Images are seen by their centre square.

    ``templates`` is ``none`` for prompts as they are written, or ``imagenet`` to average the text's way over 79
    sentences, as DiffusionCLIP's loss does. The default is ``none``: a manifest's prompts are sentences already, and
    "a plushie a photo of a cat." says nothing; choose ``imagenet`` where they are nouns.
    """

    columns: ClassVar[Mapping[str, str]] = {"clip_direction": "float64", "clip_target": "float64"}

    def __init__(self, clip: Clip, templates: Sequence[str] = PLAIN) -> None:
        self.clip = clip
        self.templates = templates
        # The last pair's: a dataset is often edited by one pair of texts, and 158 sentences cost more than an image.
        self._known: tuple[tuple[str, str], Tensor] | None = None

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str, templates: str = "none") -> Self:
        """Read the CLIP of role ``clip``.

        Raises:
            ConfigError: ``templates`` is no name of a set.
            WeightsError: there is no CLIP, or it does not load.
        """
        from retouch.models.clip import load_clip

        if templates not in TEMPLATES:
            raise ConfigError(f"metric clip_direction: no templates {templates!r}; there are: {', '.join(TEMPLATES)}")
        if "clip" not in weights:
            raise WeightsError("metric clip_direction needs weights of role 'clip'; name them in the job's weights")
        return cls(load_clip(weights["clip"], device), TEMPLATES[templates]())

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """One ``clip_direction`` and ``clip_target`` an entry; ``edited`` [B,H,W,3] uint8."""
        sources = batch.source_prompt or [""] * len(batch)
        # One at a time: kernels round differently for other batch sizes, and a score must not hang on its neighbours.
        entries = zip(batch.image, edited, sources, batch.prompt, strict=True)
        return [dict(zip(self.columns, self._scores(*entry), strict=True)) for entry in entries]

    def _scores(self, image: Pixels, edited: Pixels, source: str, target: str) -> tuple[float | None, float | None]:
        import torch

        from retouch.diffusion.clip_losses import direction_loss

        if not target.strip():
            return None, None
        with torch.no_grad():
            after = self._encoded(edited)
            text = self.clip.encode_text([target], truncate=True)
            likeness = 100 * float(torch.cosine_similarity(after, text)[0])
            direction = self._direction(source, target) if source.strip() else None
            if direction is None or not direction.any():
                return None, likeness
            return 1 - float(direction_loss(direction, self._encoded(image), after)[0]), likeness

    def _direction(self, source: str, target: str) -> Tensor:
        from retouch.diffusion.clip_losses import text_direction

        if self._known is None or self._known[0] != (source, target):
            texts = (self.clip.encode_text(fill(self.templates, text), truncate=True) for text in (source, target))
            self._known = (source, target), text_direction(*texts)
        return self._known[1]

    def _encoded(self, pixels: Pixels) -> Tensor:
        import torch

        from retouch.diffusion.clip_losses import clip_view

        x = torch.tensor(pixels).to(self.clip.device).permute(2, 0, 1)[None] / 127.5 - 1
        return self.clip.encode_image(clip_view(x, self.clip.image_size).clamp(0, 1))
