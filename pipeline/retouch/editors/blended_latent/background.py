"""Make an edit meet its source at the mask's edge: by fitting the decoder or the latent, or Poisson's equation.

One image at a time. The product pastes the edit into the source afterwards, so these decide the seam alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from retouch.models.stable_diffusion import StableDiffusion

RATES: Final = {"weights": 1e-4, "latents": 0.1}  # of Adam, as published
_NEIGHBOURS: Final = ((0, 1), (0, -1), (1, 0), (-1, 0))


def fitted(
    networks: StableDiffusion,
    edited: Tensor,
    latent: Tensor,
    source: Tensor,
    mask: Tensor,
    what: Literal["weights", "latents"],
    steps: int,
    weight: float,
) -> Tensor:
    """Return an edit whose outside was drawn towards the source (Avrahami et al. 2023, section 4.2).

    Minimizes the mean square difference to the edit inside the mask, plus ``weight`` times that to the source outside.
    Adjusts a copy of the decoder, so that ``networks`` stay as they are.

    Args:
        networks: of which the autoencoder is used.
        edited: [1,3,S,S] in about [-1, 1].
        latent: [1,4,h,w], whose decoding it is.
        source: [1,3,S,S] in [-1, 1].
        mask: [1,1,S,S], 1 = edit.
        what: which numbers are adjusted.
        steps: of gradient descent.
        weight: of the outside.
    """
    decoder = copy.deepcopy(networks.vae.decoder) if what == "weights" else networks.vae.decoder
    latent = latent.detach().clone()
    numbers = list(decoder.parameters()) if what == "weights" else [latent]
    for one in numbers:
        one.requires_grad_()

    def decode() -> Tensor:
        image: Tensor = decoder(networks.before_decoder(latent))
        return image

    with torch.enable_grad():
        _minimize(decode, numbers, edited.detach(), source, mask, RATES[what], steps, weight)
    with torch.no_grad():
        return decode()


def _minimize(
    decode: Callable[[], Tensor],
    numbers: Sequence[Tensor],
    edited: Tensor,
    source: Tensor,
    mask: Tensor,
    rate: float,
    steps: int,
    weight: float,
) -> None:
    optimizer = torch.optim.Adam(numbers, lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        image = decode()
        inside = ((image - edited) * mask).square().mean()
        outside = ((image - source) * (1 - mask)).square().mean()
        (inside + weight * outside).backward()
        optimizer.step()


def poisson(edited: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """Return the image with the edit's gradients inside the mask and the source's values around it.

    Perez, Gangnet, Blake 2003, eq. 7. Solved exactly; an image edited all over is returned as it is.

    Args:
        edited: [1,3,S,S].
        source: [1,3,S,S].
        mask: [1,1,S,S], 1 = edit.
    """
    inside = mask[0, 0].cpu().numpy() > 0.5
    if inside.all() or not inside.any():
        return edited if inside.any() else source
    wanted, known = (x[0].permute(1, 2, 0).double().cpu().numpy() for x in (edited, source))
    solved = _solve(wanted, known, inside)
    return torch.from_numpy(solved).permute(2, 0, 1)[None].to(edited)


def _solve(
    edited: npt.NDArray[np.float64], source: npt.NDArray[np.float64], inside: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Solve for the pixels [H,W,3] inside: at each, the sum over its neighbours of (f - f_q) equals the edit's."""
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import splu

    y, x = np.nonzero(inside)
    number = np.full(inside.shape, -1)
    number[y, x] = np.arange(len(y))
    rows: list[Any] = []
    columns: list[Any] = []
    diagonal, right = np.zeros(len(y)), np.zeros((len(y), 3))
    for dy, dx in _NEIGHBOURS:
        there = (y + dy >= 0) & (y + dy < inside.shape[0]) & (x + dx >= 0) & (x + dx < inside.shape[1])
        at, near = (y[there], x[there]), (y[there] + dy, x[there] + dx)
        diagonal[there] += 1
        known = ~inside[near]
        right[there] += edited[at] - edited[near] + np.where(known[:, None], source[near], 0)
        rows.append(number[at][~known])
        columns.append(number[near][~known])
    row, column = np.concatenate(rows), np.concatenate(columns)
    every = np.arange(len(y))
    values = np.concatenate([diagonal, np.full(len(row), -1.0)])
    matrix = coo_array((values, (np.concatenate([every, row]), np.concatenate([every, column]))))
    solved = source.copy()
    solved[y, x] = splu(matrix.tocsc()).solve(right)
    return solved
