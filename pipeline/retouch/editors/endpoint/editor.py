"""Edits rows by an OpenAI-compatible server: vLLM-Omni, SGLang-Diffusion, or a hosted model.

Turns uint8 batches into requests and responses into pixels; ``client.py`` sends them. What a response looks like is the
server's: rows have ``reproducible`` false.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np

from retouch.editors import registry
from retouch.editors.endpoint.client import Client, Request
from retouch.editors.endpoint.params import Params as EndpointParams
from retouch.errors import ConfigError, EditError, LoadError, RowError
from retouch.imaging import codec, regions
from retouch.schema import Batch, EditResult, Mask, Pixels

REPRODUCIBLE: dict[str, float] = {"reproducible": False}


class Endpoint(registry.Endpoint):
    """The editor: a server, uint8 batches."""

    def __init__(self, params: EndpointParams, key: str | None) -> None:
        self.params, self.client = params, Client(params, key)
        self.image_size = params.size
        self.fills_masks = params.mask != "none"

    @classmethod
    def load(cls, params: Any, weights: Mapping[str, str], device: str) -> Self:
        """Read the API key; nothing is sent. Raises ConfigError if its variable is not set."""
        name = params.api_key_env
        if name is not None and not os.environ.get(name):
            raise ConfigError(f"api_key_env names {name}, which is not set here; set it on every worker")
        return cls(params, os.environ[name] if name is not None else None)

    def check_batch(self, batch: Batch) -> None:
        """Raise ConfigError if ``batch.params`` are not valid, or belong into the job."""
        params = self.params.overridden(batch.params)
        for name in (*sorted(EndpointParams.decides_nothing), "size"):
            if getattr(params, name) != getattr(self.params, name):
                raise ConfigError(f"{name} is settled when the editor is loaded: set it in the job's params")

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        """Return one result per entry, in order; an entry that the server refuses has an error.

        Entries that are equal in everything, as those of a padded batch, are sent once.

        Raises:
            ConfigError: see ``check_batch``.
            Unavailable: the server cannot be reached, refuses all requests, or still fails after all attempts.
        """
        self.check_batch(batch)
        params = self.params.overridden(batch.params)
        negatives = batch.negative_prompt or [""] * len(batch)
        rows = zip(batch.image, batch.mask, batch.prompt, negatives, batch.seed, strict=True)
        keys = [(_request(*row, params), row[-1]) for row in rows]
        waiting = list(dict.fromkeys(key for key in keys if key[0].prompt))
        with ThreadPoolExecutor(1) as thread:  # a loop may run in this one, as in a notebook
            found = thread.submit(self.client.edit, [request for request, _ in waiting], params).result()
        responses = dict(zip(waiting, found, strict=True))
        empty = EditError("the prompt is empty; the server needs one")
        return [_result(responses.get(key, empty), image, params) for key, image in zip(keys, batch.image, strict=True)]


def _request(image: Pixels, mask: Mask, prompt: str, negative: str, seed: int, params: EndpointParams) -> Request:
    return Request(
        codec.encode(image),
        _mask_file(image, mask, params),
        prompt.strip(),
        negative.strip(),
        seed % 2**31 if params.seed else None,
    )


def _mask_file(image: Pixels, mask: Mask, params: EndpointParams) -> bytes | None:
    if params.mask == "none" or mask.all():
        return None
    if params.mask == "white":
        return codec.encode_mask(mask)
    return codec.encode(image, alpha=np.where(mask, 0, 255).astype(np.uint8))


def _result(response: bytes | RowError, source: Pixels, params: EndpointParams) -> EditResult:
    if isinstance(response, RowError):
        return EditResult(source, REPRODUCIBLE, response)
    try:
        return EditResult(_pixels(response, params), REPRODUCIBLE)
    except RowError as error:
        return EditResult(source, REPRODUCIBLE, error)


def _pixels(response: bytes, params: EndpointParams) -> Pixels:
    """Return a response's pixels at the size that was asked for. Raises EditError."""
    try:
        pixels = codec.decode_image(response, "the server's image").as_seen()
    except LoadError as error:
        raise EditError(str(error)) from None
    height, width = pixels.shape[:2]
    if (height, width) == (params.size, params.size):
        return pixels
    if not params.resize:
        asked = f"{params.size}x{params.size}"
        raise EditError(f"the server's image is {width}x{height}, asked for {asked}; resize: true scales it")
    return regions.resize(pixels, params.size, params.size)
