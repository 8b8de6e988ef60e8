"""Compare our Blended Diffusion with the authors' published loop, run on our networks.

``python -m tests.benchmarks.original_blended_diffusion CLONE`` takes a clone of omriav/blended-diffusion. Theirs are
``edit_image_by_prompt`` with its guidance and blending, the sampling loop and the augmentations. Replaced are the
networks by ours, CLIP's tokenizer by that of the network, and pictures of intermediate steps by nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Final

import torch
import typer
from retouch.cli.bench.compare import compare, table
from retouch.cli.bench.subjects import subject
from retouch.editors.blended_diffusion.editor import BlendedDiffusion
from retouch.errors import ConfigError
from retouch.imaging import codec
from retouch.models.clip import Clip
from retouch.models.devices import best_device
from retouch.schema import Batch
from torch import Tensor, nn

EDITOR: Final = "optimization/image_editor.py"
PACKAGES: Final = ("optimization", "guided_diffusion", "utils", "CLIP")  # of the clone
# Imported by the clone's editor but not needed: its CLIP, videos, and pictures of intermediate steps.
REPLACED: Final = {
    "CLIP": ("clip",),
    "utils.video": ("save_video",),
    "utils.visualization": ("show_tensor_image", "show_editied_masked_image"),
}


class Original:
    """The authors' editor, one image per call, with the networks and the params of our editor.

    Args:
        folder: the clone.
        ours: the editor whose params and schedule are used.
        unet: the network.
        clip: CLIP.

    Raises:
        ConfigError: the folder is not a clone of the repository.
    """

    def __init__(self, folder: Path, ours: BlendedDiffusion, unet: nn.Module, clip: Clip) -> None:
        if not (folder / EDITOR).is_file():
            raise ConfigError(f"{folder} is not a clone of omriav/blended-diffusion: it has no {EDITOR}")
        with _importable(folder):
            module: Any = importlib.import_module("optimization.image_editor")
            diffusion: Any = importlib.import_module("guided_diffusion.guided_diffusion.gaussian_diffusion")
            respacing: Any = importlib.import_module("guided_diffusion.guided_diffusion.respace")
        module.clip = Namespace(tokenize=lambda text: clip.tokenizer([text]))
        module.show_editied_masked_image = lambda **_: None
        self._ours = ours
        self._editor = module.ImageEditor.__new__(module.ImageEditor)  # its __init__ loads the published weights
        self._fill(module, diffusion, respacing, unet, clip)

    def _fill(self, module: Any, diffusion: Any, respacing: Any, unet: nn.Module, clip: Clip) -> None:
        ours, editor = self._ours, self._editor
        params, networks = ours.params.resolved(), ours.networks
        kinds = diffusion.ModelVarType
        editor.device = torch.device(ours.device)
        editor.model = _WithClasses(unet)
        editor.diffusion = respacing.SpacedDiffusion(
            use_timesteps=respacing.space_timesteps(len(networks.schedule), str(params.timesteps)),
            betas=networks.schedule.betas,
            model_mean_type=diffusion.ModelMeanType.EPSILON,
            model_var_type=kinds.LEARNED_RANGE if networks.learn_sigma else kinds.FIXED_SMALL,
            loss_type=diffusion.LossType.MSE,
            rescale_timesteps=True,
        )
        editor.model_config = {"image_size": ours.image_size}
        editor.clip_model = clip.model
        editor.clip_size = clip.image_size
        editor.clip_normalize = module.transforms.Normalize(clip.mean, clip.std)
        editor.image_augmentations = module.ImageAugmentations(clip.image_size, params.aug_num)
        editor.metrics_accumulator = module.MetricsAccumulator()
        editor.unaugmented_clip_distance = lambda *_: 0.0

    def edit(self, batch: Batch) -> None:
        """Edit the batch's only entry and discard the result."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "image.png").write_bytes(codec.encode(batch.image[0], "png"))
            mask = batch.mask[0, ..., None].repeat(3, axis=-1).astype("uint8") * 255
            (folder / "mask.png").write_bytes(codec.encode(mask, "png"))
            self._editor.args = self._arguments(batch, folder)
            self._editor.ranked_results_path = folder
            torch.manual_seed(batch.seed[0])
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                self._editor.edit_image_by_prompt()

    def _arguments(self, batch: Batch, folder: Path) -> Namespace:
        params = self._ours.params
        return Namespace(
            prompt=batch.prompt[0],
            init_image=folder / "image.png",
            mask=folder / "mask.png",
            skip_timesteps=params.skip_timesteps,
            local_clip_guided_diffusion=False,
            ddim=params.sampler == "ddim",
            model_output_size=256,  # read only to know that there are no classes
            clip_guidance_lambda=params.clip_guidance_lambda,
            range_lambda=params.range_lambda,
            background_preservation_loss=False,
            invert_mask=False,
            enforce_background=True,
            output_path=folder,
            output_file="edited.png",
            iterations_num=1,
            batch_size=1,
            save_video=False,
            export_assets=False,
        )


class _WithClasses(nn.Module):
    """A network without classes that ignores the class which their loop passes."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, t: Tensor, y: None = None) -> Tensor:
        out: Tensor = self.module(x, t)
        return out


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Make the clone's modules importable within the context, and remove them afterwards: their names are common."""
    before = dict(sys.modules)
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]
    for name, functions in REPLACED.items():
        module = ModuleType(name)
        for function in functions:
            setattr(module, function, None)
        sys.modules[name] = module
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
            del sys.modules[name]
        sys.modules.update({name: module for name, module in before.items() if name.partition(".")[0] in PACKAGES})


def main(
    clone: Annotated[Path, typer.Argument(help="Clone of omriav/blended-diffusion.")],
    size: Annotated[str, typer.Option(help="Networks: embedded, reduced or full width.")] = "embedded",
    turns: Annotated[int, typer.Option(min=1, help="Timed turns.")] = 5,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: cuda if there is a GPU.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per ratio.")] = False,
) -> None:
    """Print how many times as long the authors' loop takes per image as ours."""
    one = subject("blended_diffusion", size, device or best_device())
    assert one.plain is not None
    original = Original(clone, one.editor, *one.plain)
    records = list(compare(one, turns, {"the original, batch 1": original.edit}))
    typer.echo("\n".join(map(json.dumps, records)) if as_json else table(records))


if __name__ == "__main__":
    typer.run(main)
