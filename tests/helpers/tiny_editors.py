"""Small stand-ins with the real interfaces: random-weight networks, the golden set's tiny encoder, given noise."""

import torch
from retouch.diffusion.schedule import named
from retouch.editors.blended_diffusion.sampler import Networks
from retouch.models.unet import adm_network
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from tests.helpers.golden_set import adm_config, golden, weights_of


class TinyEncoder:
    """The image encoder that stands for CLIP in the golden set, as its notes describe it; counts its calls."""

    def __init__(self, weights, image_size, mean, std):
        self.weights, self.image_size = weights, image_size
        self.mean, self.std = (torch.tensor(value).view(3, 1, 1) for value in (mean, std))
        self.seen = []

    def encode_image(self, x, normalise=True):
        x = (x - self.mean) / self.std if normalise else x
        self.seen.append(x.detach())
        kernel = self.weights["conv.weight"]
        hidden = torch.tanh(F.conv2d(x, kernel, self.weights["conv.bias"], stride=kernel.shape[-1]))
        return hidden.flatten(1) @ self.weights["proj.weight"].T + self.weights["proj.bias"]


class GivenDraws:
    """A noise source that plays back given noise; any other stream, or more of it, is an error."""

    def __init__(self, **streams):
        self.streams = {name: iter(values) for name, values in streams.items()}

    def normal(self, stream, shape):
        drawn = next(self.streams[stream])
        assert tuple(drawn.shape[1:]) == tuple(shape)
        return drawn

    def uniform(self, stream, shape):
        raise AssertionError(f"nothing should be drawn from {stream}")

    integers = uniform


def golden_networks(tensors, config, lpips=None):
    """Return UNet and encoder of a golden Blended Diffusion file."""
    adm_tensors, adm_entry = golden(config["adm_file"])
    adm = adm_config(adm_entry["config"])
    network = adm_network(weights_of(adm_tensors), adm, config["adm_file"])
    network.module.eval().requires_grad_(False)
    encoder = TinyEncoder(weights_of(tensors, "clip."), config["clip_size"], config["clip_mean"], config["clip_std"])
    schedule = named(config["noise_schedule"], config["diffusion_steps"])
    return Networks(network.module, schedule, network.learn_sigma, encoder, lpips=lpips)


class TinyUNet(nn.Module):
    """A few convolutions, group norms and the timestep, with random weights; returns eps, or eps and v."""

    def __init__(self, out_channels=3, width=16, classes=0):
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.time = nn.Linear(1, width)
        self.classes = nn.Embedding(classes, width) if classes else None
        self.norm = nn.GroupNorm(4, width)
        self.leave = nn.Conv2d(width, out_channels, 3, padding=1)
        self.seen_classes = []

    def forward(self, x, t, y=None):
        embedded = self.time(t.float()[:, None] / 1000)
        if y is not None:
            self.seen_classes.append(y)
            embedded = embedded + self.classes(y)
        hidden = self.enter(x) + embedded[:, :, None, None]
        return 0.8 * x.repeat(1, self.leave.out_channels // 3, 1, 1) + self.leave(F.silu(self.norm(hidden)))


def tiny_networks(learn_sigma=False, classes=0, lpips=None, embed=8, clip_size=14):
    """Return networks of 16 px or another size, the same on every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = TinyUNet(6 if learn_sigma else 3, classes=classes).eval().requires_grad_(False)
        weights = {
            "conv.weight": torch.randn(4, 3, 7, 7) / 7,
            "conv.bias": torch.zeros(4),
            "proj.weight": torch.randn(embed, 4 * (clip_size // 7) ** 2) / 4,
            "proj.bias": torch.zeros(embed),
        }
    encoder = TinyEncoder(weights, clip_size, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return Networks(unet, named("cosine"), learn_sigma, encoder, num_classes=classes, lpips=lpips)
