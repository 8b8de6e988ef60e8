"""CLIP from its published files: texts and images to embeddings, unnormalised.

Sources (``load_clip``): the package's own pair of files, OpenAI's ``.pt``, and models that open_clip knows by name.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from retouch.errors import EditError, WeightsError
from retouch.models.checkpoint import load_strictly, read_state_dict, reason

if TYPE_CHECKING:
    from open_clip import SimpleTokenizer

# Not weights, but among the tensors of OpenAI's archives or of traced models.
EXTRAS = ("input_resolution", "context_length", "vocab_size", "attn_mask")

CLIP_KEYWORDS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}


@dataclass(frozen=True)
class Clip:
    """A frozen CLIP in eval mode, float32."""

    model: nn.Module
    tokenizer: SimpleTokenizer
    image_size: int  # S
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def device(self) -> torch.device:
        """The weights' device."""
        return next(self.model.parameters()).device

    @property
    def context_length(self) -> int:
        """Maximal number of tokens of one text, start and end included (77 in OpenAI's)."""
        return cast(int, self.tokenizer.context_length)

    def token_count(self, text: str) -> int:
        """Return the number of tokens of a text, start and end included; beyond ``context_length`` it would be cut."""
        return len(self.tokenizer.encode(text)) + 2

    def check_length(self, text: str) -> None:
        """Raise if a text would be cut.

        Raises:
            EditError: the text is longer than ``context_length`` tokens.
        """
        if (count := self.token_count(text)) > self.context_length:
            raise EditError(f"prompt of {count} tokens where CLIP reads {self.context_length}: {text[:40]!r}...")

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], truncate: bool = False) -> Tensor:
        """Return embeddings [B,D] float32, unnormalised, of B texts.

        Raises:
            EditError: a text is longer than ``context_length`` tokens and ``truncate`` is not set.
        """
        for text in () if truncate else texts:
            self.check_length(text)
        tokens = self.tokenizer(list(texts)).to(self.device)
        return cast(Tensor, cast(Any, self.model).encode_text(tokens)).float()

    def normalise(self, x: Tensor) -> Tensor:
        """Bring images [B,3,H,W] in [0,1] to the image tower's scale: (x - mean) / std by channel."""
        mean, std = self._scale
        return (x - mean.to(x)) / std.to(x)

    @cached_property
    def _scale(self) -> tuple[Tensor, Tensor]:
        # Cached: guidance normalises at every step, and a copy to the device waits for all work before it.
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (self.mean, self.std))
        return mean, std

    def encode_image(self, x: Tensor, normalise: bool = True) -> Tensor:
        """Return embeddings [B,D] float32, unnormalised, differentiable in x.

        Args:
            x: [B,3,S,S] in [0,1].
            normalise: subtract the mean and divide by the deviation of CLIP's training images. Blended Diffusion's
                ranking does not.
        """
        if x.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"CLIP takes images of {self.image_size} px, got {tuple(x.shape)}: resize them first")
        x = self.normalise(x) if normalise else x
        return cast(Tensor, cast(Any, self.model).encode_image(x)).float()


def fold_batch_norms(network: nn.Module) -> None:
    """Fold, in place, every batch norm that is the next child of its module after a convolution.

    The network must call them in that order, as CLIP's ResNets do. Equal up to rounding. It saves a pass over the
    activations forward and, more, backward, where torch computes sums for the weights even if they are frozen.

    Args:
        network: in eval mode, weights frozen.
    """
    for module in list(network.modules()):
        for (name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())


def load_clip(source: str, device: str = "cpu") -> Clip:
    """Read a CLIP.

    Args:
        source: a file with a ``.json`` sidecar (``clip.safetensors``, ``clip.json``), OpenAI's ``.pt`` (archive
            or state dict), ``open_clip:MODEL/TAG`` (fetched by open_clip), or ``open_clip:MODEL@FILE``.

    Raises:
        WeightsError: missing, broken, unsafe, unknown, or of another architecture.
    """
    if source.startswith("open_clip:"):
        name = source.removeprefix("open_clip:")
        clip = _named_file(*name.split("@", 1)) if "@" in name else _named_tag(name)
    elif Path(source).is_file() and Path(source).with_suffix(".json").is_file():
        clip = _described(source)
    else:
        clip = _openai(source)
    clip.model.to(device).eval().requires_grad_(requires_grad=False)
    return clip


def _described(path: str) -> Clip:
    """Read the package's own layout: ``model_cfg`` (keywords of open_clip's CLIP), ``tokenizer``, ``mean``, ``std``."""
    from open_clip import CLIP, SimpleTokenizer

    card = Path(path).with_suffix(".json")
    try:
        config = json.loads(card.read_text())
        model = CLIP(**config["model_cfg"])
        merges = card.parent / config["tokenizer"]["merges"]
        tokenizer = SimpleTokenizer(str(merges), context_length=config["tokenizer"]["context_length"])
        mean, std = tuple(config["mean"]), tuple(config["std"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{card} describes no CLIP: {error!r}") from error
    load_strictly(model, read_state_dict(path), path, f"the CLIP that {card.name} describes")
    return Clip(model, tokenizer, config["image_size"], mean, std)


def _openai(path: str) -> Clip:
    from open_clip import SimpleTokenizer
    from open_clip.model import build_model_from_openai_state_dict

    state = openai_state_dict(path)
    state = {name: value for name, value in state.items() if name not in EXTRAS}
    try:
        model = build_model_from_openai_state_dict(dict(state), cast_dtype=torch.float32)
    except (KeyError, IndexError, RuntimeError, AssertionError) as error:
        raise WeightsError(
            f"{path} is no OpenAI CLIP ({reason(error)}); name another with open_clip:MODEL@FILE"
        ) from error
    model = model.float()
    load_strictly(model, state, path, "an OpenAI CLIP")  # again, since open_clip has rounded them to float16
    tokenizer = SimpleTokenizer(context_length=model.context_length)
    return _clip(model, tokenizer)


def openai_state_dict(path: str) -> dict[str, Tensor]:
    """Return the tensors by name of any checkpoint, OpenAI's archives included; no code in them is run.

    Raises:
        WeightsError: missing, broken or unsafe.
    """
    return _archived_state_dict(path) if _is_torchscript(path) else read_state_dict(path)


def _named_tag(name: str) -> Clip:
    import open_clip

    model_name, _, tag = name.rpartition("/")
    try:
        model = open_clip.create_model(model_name, pretrained=tag, require_pretrained=True)
    except Exception as error:  # of many kinds: unknown name, no network, a broken download
        raise WeightsError(f"open_clip has no {name!r} (MODEL/TAG, as ViT-B-16/openai): {reason(error)}") from error
    return _clip(model, _bpe(model_name))


def _named_file(model_name: str, path: str) -> Clip:
    import open_clip

    config = open_clip.get_model_config(model_name)
    if config is None or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys() <= CLIP_KEYWORDS:
        raise WeightsError(f"open_clip has no plain CLIP named {model_name!r}; take one such as ViT-B-16-quickgelu")
    tokenizer = _bpe(model_name)
    state = {name.removeprefix("module."): value for name, value in read_state_dict(path).items()}
    model = open_clip.CLIP(**config)
    load_strictly(model, state, path, f"an open_clip {model_name}")
    return _clip(model, tokenizer)


def _bpe(model_name: str) -> SimpleTokenizer:
    import open_clip

    tokenizer = open_clip.get_tokenizer(model_name)
    if not isinstance(tokenizer, open_clip.SimpleTokenizer):
        raise WeightsError(f"open_clip's {model_name} does not read text with CLIP's own tokens; take one that does")
    return tokenizer


def _clip(model: nn.Module, tokenizer: SimpleTokenizer) -> Clip:
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    visual = cast(Any, model).visual
    size = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
    mean = getattr(visual, "image_mean", None) or OPENAI_DATASET_MEAN
    std = getattr(visual, "image_std", None) or OPENAI_DATASET_STD
    return Clip(model, tokenizer, size, tuple(mean), tuple(std))


def _is_torchscript(path: str) -> bool:
    """Return whether a file is an archive of code and weights, as OpenAI published them."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _archived_state_dict(path: str) -> dict[str, Tensor]:
    """Return the tensors of a TorchScript archive without running its code.

    Raises:
        WeightsError: it is broken, or has code that would run when it is opened.
    """
    with zipfile.ZipFile(path) as archive:
        code = (archive.read(entry) for entry in archive.infolist() if entry.filename.endswith(".py"))
        if any(b"__setstate__" in text for text in code):
            # TorchScript's interpreter calls it on opening, and it could write files.
            raise WeightsError(f"{path} was not opened: it has code that runs on opening; save it as .safetensors")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # deprecated, and the only reader of these archives
            module = torch.jit.load(path, map_location="cpu")
    except RuntimeError as error:
        raise WeightsError(f"{path} is a broken TorchScript archive: {reason(error)}") from error
    return dict(module.state_dict())
