"""DiffusionCLIP: an image's latent by the source network, an image from it by a fine-tuned one (Kim, Kwon, Ye 2022).

Loads the networks, caches latents and converts uint8 batches; ``sampler.py`` inverts and generates on tensors. Every
entry of a batch has its own image, prompt and seed and shares nothing with the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from retouch.diffusion.mixing import by_ratio, hybrid
from retouch.diffusion.noise import Noise
from retouch.diffusion.sampling import Denoise, denoiser
from retouch.diffusion.schedule import named
from retouch.editors import registry
from retouch.editors.diffusionclip import sampler
from retouch.editors.diffusionclip.inversion_cache import Inversions, Memory
from retouch.editors.diffusionclip.networks import TunedNetworks
from retouch.editors.diffusionclip.params import Params as DiffusionClipParams
from retouch.editors.runtime import (
    deterministic_kernels,
    from_uint8,
    in_precision,
    refuse_changed_compile,
    refuse_faults,
    to_uint8,
)
from retouch.errors import EditError
from retouch.models.clip import Clip, load_clip
from retouch.models.unet import Network
from retouch.schema import Batch, EditResult

TUNED = "tuned"  # role of the tuned network where neither the row nor ``networks`` names one


class DiffusionClip(registry.DiffusionClip):
    """The editor: loaded networks, uint8 batches.

    N targets of one image cost n_inv - 1 passes and n_gen per target, whether they come in one batch or in many.
    ``memory``, if it is set, stores latents beyond this process: it is read before a latent is computed.
    """

    def __init__(self, networks: TunedNetworks, params: DiffusionClipParams, device: str) -> None:
        self.networks, self.params, self.device = networks, params, device
        self.image_size = networks.source.image_size
        self.schedule = named(networks.source.schedule)
        self.memory: Memory | None = None
        self._inversions = Inversions()
        self._clip: Clip | None = None

    @classmethod
    def load(cls, params: Any, weights: Mapping[str, str], device: str) -> Self:
        """Read the source network, and CLIP if the job optimises; check that the job's tuned networks exist.

        Raises:
            WeightsError: a role is missing, or its file is broken or of no known architecture.
        """
        networks = TunedNetworks(weights, device, params.keep_networks, params.compile)
        for name in params.networks if params.needs_tuned else ():
            networks.file(name)
        editor = cls(networks, params, device)
        if params.optimise:
            editor.clip()
        return editor

    def check_batch(self, batch: Batch) -> None:
        """Check that the batch can be edited, without a forward pass.

        Raises:
            ConfigError: ``batch.params`` contradict each other or the networks.
            WeightsError: a tuned network is missing or is no copy of the source.
            EditError: an entry has no prompt to optimise its latent towards, or it is longer than CLIP reads.
        """
        params = self.params.overridden(batch.params)
        refuse_changed_compile(batch.params, self.params.compile)
        self._target(batch.checkpoint, params)
        if not params.optimise:
            return
        if empty := [str(place) for place, prompt in enumerate(batch.prompt) if not prompt.strip()]:
            raise EditError(f"optimise has no prompt to go towards (entry {', '.join(empty)} of {len(batch)})")
        for prompt in batch.prompt:
            self.clip().check_length(prompt.strip())

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        """Return one result per entry, in order.

        Raises:
            ConfigError, WeightsError, EditError: see ``check_batch``.
            EditError: an entry's result is not finite, or of one colour all over.
        """
        self.check_batch(batch)
        params = self.params.overridden(batch.params)
        with torch.no_grad(), deterministic_kernels(self.device):
            image = self._translated(batch, params)
        refuse_faults(image, from_uint8(batch.image, self.device), "try ratio 1 and float32")
        return [EditResult(one) for one in to_uint8(image)]

    def _translated(self, batch: Batch, params: DiffusionClipParams) -> Tensor:
        target = self._target(batch.checkpoint, params)
        draws = Noise(batch.seed, self.device)
        x0 = from_uint8(batch.image, self.device)
        if params.start == "noise":
            source = self._denoiser(self.networks.source, params)
            x0 = sampler.purified(source, self.schedule, x0, params, draws)
            return sampler.generated_from_noise(target, self.schedule, x0, params, draws)
        latent = self._latents(batch, x0, params)
        if params.optimise:
            latent = self._optimised(batch.prompt, latent, x0, params)
        return sampler.generated(target, self.schedule, latent, params, draws)

    def _target(self, checkpoint: str | None, params: DiffusionClipParams) -> Denoise:
        """Return the generation's denoiser: the source network, a tuned one, or a mix."""
        source = self._denoiser(self.networks.source, params)
        if not params.needs_tuned:
            return source
        names = [checkpoint] if checkpoint else params.networks or [TUNED]
        tuned = [self._denoiser(network, params) for network in self.networks.get(names)]
        if params.hybrid:
            return hybrid(tuned, params.hybrid)
        (only,) = tuned  # Params allows several only with hybrid
        return by_ratio(source, only, params.ratio)

    def _denoiser(self, network: Network, params: DiffusionClipParams) -> Denoise:
        module = in_precision(network.module, params.precision, self.device)
        return denoiser(module, self.schedule, learn_sigma=network.learn_sigma, variance=params.variance)

    def _latents(self, batch: Batch, x0: Tensor, params: DiffusionClipParams) -> Tensor:
        """Return latents [B,3,S,S] of the batch's images; only those that are not cached are computed."""
        source = self._denoiser(self.networks.source, params)

        def invert(places: list[int]) -> Tensor:
            draws = Noise([batch.seed[place] for place in places], self.device)
            x = sampler.purified(source, self.schedule, x0[places], params, draws)
            return sampler.inverted(source, self.schedule, x, params)

        names = [_cache_key(batch, place, params) for place in range(len(batch))]
        return self._inversions.of(names, invert, self.memory).to(self.device)

    def _optimised(self, prompts: Sequence[str], latent: Tensor, x0: Tensor, params: DiffusionClipParams) -> Tensor:
        # One at a time: an embedding must not depend on the other prompts of the batch.
        clip = self.clip()
        texts = torch.cat([clip.encode_text([prompt.strip()]) for prompt in prompts])
        source = self._denoiser(self.networks.source, params)
        return sampler.optimised(source, self.schedule, latent, x0, clip.encode_image, clip.image_size, texts, params)

    def clip(self) -> Clip:
        """Return CLIP, loaded at the first call: most jobs optimise nothing.

        Raises:
            WeightsError: its weights are missing or broken.
        """
        if self._clip is None:
            self._clip = load_clip(self.networks.file("clip", "optimise needs it, or set optimise to 0"), self.device)
        return self._clip


def _cache_key(batch: Batch, place: int, params: DiffusionClipParams) -> str:
    """Return a digest of what decides an entry's latent, apart from the source network, which the editor has one of."""
    # The batch's size is part of it: kernels round by shape, and a latent must not depend on who computed it before.
    inputs: list[Any] = [len(batch), params.t_0, params.n_inv, params.precision, batch.image[place].shape]
    if params.purify:
        inputs += [params.purify, params.purify_steps, batch.seed[place]]
    digest = hashlib.sha256(json.dumps(inputs).encode())
    digest.update(batch.image[place].tobytes())
    return digest.hexdigest()
