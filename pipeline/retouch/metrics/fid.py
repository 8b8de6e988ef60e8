"""Frechet distance of two sets of images on a network's features.

The distance is biased upwards for few images, the more so the more features there are: compare only numbers of sets of
equal size and of one id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from retouch.errors import ConfigError, EditError, WeightsError
from retouch.metrics.clip_preprocess import CENTRE, clip_features
from retouch.metrics.frechet import Moments, frechet_distance, merged
from retouch.plugins import State
from retouch.schema import Pixels

if TYPE_CHECKING:
    from retouch.models.clip import Clip
    from retouch.models.inception import Inception

Features = npt.NDArray[np.float32]


class _Frechet:
    """A Frechet distance on any features: mergeable moments, compared at the end."""

    compares: ClassVar[bool] = True
    name: ClassVar[str]

    def state(self, features: Features) -> State:
        """Return count, mean and scatter of features [N,D], in float64."""
        return Moments.of(features).state()

    def merge(self, states: Sequence[State]) -> State:
        """Return the moments of all features of several states."""
        return merged(states)

    def fit(self, state: State) -> State:
        """Return the reference's moments unchanged."""
        return state

    def reduce(self, state: State, reference: State | None) -> Mapping[str, float]:
        """Return the distance under the metric's name.

        Raises:
            ConfigError: the reference is missing or has other features, or a set has fewer than 2 images.
        """
        if reference is None:
            raise ConfigError(f"metric {self.name} compares two sets: give the job a reference")
        a, b = Moments.from_state(state), Moments.from_state(reference)
        if a.mean.shape != b.mean.shape:
            raise ConfigError(f"metric {self.name}: {len(a.mean)} features here, {len(b.mean)} in the reference")
        return {self.name: frechet_distance(a, b)}


class Fid(_Frechet):
    """``fid`` (Heusel et al. 2017): on the 2048 pooled features of an InceptionV3, images resized as clean-fid does.

    Every image is resized to 299 x 299 (bicubic, antialiased, without rounding to 256 levels). ``id`` names the network
    of role ``inception``: numbers of torchvision's own and of the one of the published FIDs are not comparable.
    """

    roles: ClassVar[frozenset[str]] = frozenset({"inception"})
    name: ClassVar[str] = "fid"

    def __init__(self, inception: Inception) -> None:
        self.inception = inception

    @property
    def id(self) -> Mapping[str, str]:
        """The network, and how images are resized."""
        from retouch.models.inception import IMAGE_SIZE

        resized = f"squashed to {IMAGE_SIZE} px (bicubic, antialiased, float), [-1, 1]"
        return {"model": f"{self.inception.kind} InceptionV3, pool 2048", "preprocessing": resized}

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str) -> Self:
        """Load the InceptionV3 of role ``inception``.

        Raises:
            WeightsError: the role is missing, or its file does not load.
        """
        from retouch.models.inception import load_inception

        if "inception" not in weights:
            raise WeightsError(
                "metric fid needs weights of role 'inception' (inception_v3_google-0cc3c7bd.pth or "
                "pt_inception-2015-12-05-6726825d.pth); name them"
            )
        return cls(load_inception(weights["inception"], device))

    def features(self, image: Pixels) -> Features:
        """Return the features [2048] of one image [H,W,3] uint8.

        Raises:
            EditError: the features are not finite.
        """
        import torch

        x = torch.tensor(image).to(self.inception.device).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            found: Features = self.inception.features(x)[0].cpu().numpy()
        if not np.isfinite(found).all():
            raise EditError("the image's Inception features are not finite")
        return found


class ClipFid(_Frechet):
    """``fid_clip``: on CLIP's unnormalised image embeddings, as Paint by Example's script computes its "FID".

    The published numbers use OpenAI's ViT-B/32 (512 features) in half precision; this metric uses float32.
    """

    roles: ClassVar[frozenset[str]] = frozenset({"clip"})
    name: ClassVar[str] = "fid_clip"

    def __init__(self, clip: Clip) -> None:
        self.clip = clip

    @property
    def id(self) -> Mapping[str, str]:
        """The embedding, and how images are preprocessed."""
        return {
            "model": "CLIP image embedding, unnormalised",
            "preprocessing": CENTRE.format(size=self.clip.image_size),
        }

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str) -> Self:
        """Load the CLIP of role ``clip``.

        Raises:
            WeightsError: the role is missing, or its file does not load.
        """
        from retouch.models.clip import load_clip

        if "clip" not in weights:
            raise WeightsError("metric fid_clip needs weights of role 'clip'; name them")
        return cls(load_clip(weights["clip"], device))

    def features(self, image: Pixels) -> Features:
        """Return the embedding [D] of one image [H,W,3] uint8. Raise EditError if it is not finite."""
        return clip_features(self.clip, image)
