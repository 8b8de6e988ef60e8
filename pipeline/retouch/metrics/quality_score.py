"""Quality Score: how likely images are under a mixture of Gaussians fitted to real ones (Gu et al. 2020, GIQA)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from retouch.errors import ConfigError, WeightsError
from retouch.metrics.clip_preprocess import CENTRE, clip_features
from retouch.plugins import State
from retouch.schema import Pixels

if TYPE_CHECKING:
    from retouch.models.clip import Clip

Features = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

COMPONENTS: Final = 20  # of Paint by Example's mixture of COCO 2017
FULL_SCORE: Final = 300.0  # log-likelihood that scores 100: the published scale, for 512 features of ViT-B/32


class QualityScore:
    """``quality_score``: mean over images of clip(log-likelihood / 300, 0, 1), times 100; 0..100, more is better.

    The mixture, with full covariances, is fitted to the reference's CLIP image embeddings (unnormalised). A second
    number, ``mean_log_likelihood``, shows whether the scale of the published numbers suits these features. A mixture
    needs many more images than features: with fewer, likelihoods mean little.

    The fitted mixture is three arrays, ``weights`` [K], ``means`` [K,D] and ``precisions_cholesky`` [K,D,D]:
    scikit-learn's attributes of those names. A mixture that exists already can be saved as safetensors of these and
    named as the job's reference. Pickles are never read.
    """

    roles: ClassVar[frozenset[str]] = frozenset({"clip"})
    compares: ClassVar[bool] = True

    def __init__(self, clip: Clip, components: int = COMPONENTS) -> None:
        self.clip = clip
        self.components = components

    @property
    def id(self) -> Mapping[str, str]:
        """The kind of mixture, and how images are preprocessed."""
        return {
            "model": f"Gaussian mixture, {self.components} full covariances, on CLIP image embeddings, unnormalised",
            "preprocessing": CENTRE.format(size=self.clip.image_size),
        }

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str, components: int = COMPONENTS) -> Self:
        """Load the CLIP of role ``clip``.

        Raises:
            WeightsError: the role is missing, or its file does not load.
        """
        from retouch.models.clip import load_clip

        if "clip" not in weights:
            raise WeightsError("metric quality_score needs weights of role 'clip'; name them")
        return cls(load_clip(weights["clip"], device), components)

    def features(self, image: Pixels) -> Features:
        """Return the embedding [D] of one image [H,W,3] uint8. Raise EditError if it is not finite."""
        return clip_features(self.clip, image)

    def state(self, features: Features) -> State:
        """Return the features themselves: a mixture is fitted to all of them at once."""
        return {"features": np.asarray(features, dtype=np.float32)}

    def merge(self, states: Sequence[State]) -> State:
        """Return the features of all states, concatenated."""
        return {"features": np.concatenate([state["features"] for state in states])}

    def fit(self, state: State) -> State:
        """Return the mixture fitted to a reference's features.

        Raises:
            ConfigError: fewer images than components.
        """
        return fitted(state["features"], self.components)

    def reduce(self, state: State, reference: State | None) -> Mapping[str, float]:
        """Return ``quality_score`` and ``mean_log_likelihood``.

        Raises:
            ConfigError: the reference is missing, is not a mixture, or has other features.
        """
        if reference is None:
            raise ConfigError("metric quality_score fits a mixture to real images: give the job a reference")
        found = log_likelihood(state["features"], reference)
        score = 100 * float(np.clip(found / FULL_SCORE, 0, 1).mean())
        return {"quality_score": score, "mean_log_likelihood": float(found.mean())}


def fitted(features: npt.NDArray[Any], components: int = COMPONENTS) -> State:
    """Return a mixture of full Gaussians fitted to features [N,D]; fitting again gives the same mixture.

    ``converged`` [1] is 0 if the likelihood still grew at scikit-learn's limit of iterations.

    Raises:
        ConfigError: fewer features than components.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if len(features) < components:
        raise ConfigError(f"a mixture of {components} needs as many images, the reference has {len(features)}")
    mixture = GaussianMixture(components, covariance_type="full", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # returned as ``converged``
        mixture.fit(np.asarray(features, dtype=np.float64))
    return {
        "weights": mixture.weights_,
        "means": mixture.means_,
        "precisions_cholesky": mixture.precisions_cholesky_,
        "converged": np.array([mixture.converged_], np.int64),
    }


def log_likelihood(features: npt.NDArray[Any], mixture: State) -> Floats:
    """Return the natural log of the density [N] of features [N,D] under a mixture.

    Raises:
        ConfigError: the mixture lacks an array, or has another number of features.
    """
    from sklearn.mixture import GaussianMixture

    x = np.asarray(features, dtype=np.float64)
    missing = {"weights", "means", "precisions_cholesky"} - mixture.keys()
    if missing:
        raise ConfigError(f"the reference of quality_score is no mixture: it lacks {', '.join(sorted(missing))}")
    weights, means, factors = (mixture[name] for name in ("weights", "means", "precisions_cholesky"))
    dim = x.shape[1]
    if factors.shape != (len(weights), dim, dim) or means.shape != (len(weights), dim):
        raise ConfigError(f"the mixture of quality_score is of {means.shape[-1]} features, these images have {dim}")
    gaussians = GaussianMixture(len(weights), covariance_type="full")
    gaussians.weights_, gaussians.means_, gaussians.precisions_cholesky_ = weights, means, factors
    found: Floats = gaussians.score_samples(x)
    return found
