"""Parameters of the endpoint editor, with their defaults and reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import with_config

from retouch.editors.params import overridden
from retouch.errors import ConfigError

RESERVED = frozenset({"image", "image[]", "mask", "prompt", "model", "n", "size", "seed", "response_format"})


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True)
class Params:
    """How rows are sent to a server, and what is expected of its responses.

    Raises:
        ConfigError: a value out of its range.
    """

    decides_nothing: ClassVar[frozenset[str]] = frozenset(
        {"url", "api_key_env", "concurrency", "timeout_seconds", "attempts"}
    )

    url: str
    """Of the API, up to its version: http://localhost:8000/v1. The path /images/edits is added. Not part of a row's
    identity, since a server may move; name the model, which is."""
    model: str
    """Model that the server is asked for."""
    api_key_env: str | None = None
    """Environment variable that holds the API key, on the workers, too; none: no key is sent."""

    # What is sent.
    size: int = 1024
    """Side of the square that the server sees of each image, and is asked for."""
    mask: Literal["alpha", "white", "none"] = "alpha"
    """Masks as the server reads them: transparent (OpenAI) or white where it edits; none: not sent, and the edit is
    pasted into the mask all the same. A mask that covers the whole image is not sent."""
    mask_field: str = "mask"
    """Name of the mask's form field; some servers have mask_image."""
    seed: bool = False
    """Send each candidate's seed, below 2**31, for servers that know the field."""
    response_format: Literal["b64_json", "url"] | None = None
    """Form of the response; none: the server's own. Some servers refuse the field."""
    fields: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Further form fields, such as num_inference_steps, guidance_scale or quality."""

    # What is expected.
    resize: bool = False
    """Scale an image of another size to the one that was asked for; false: that row fails."""
    concurrency: int = 4
    """Requests at the same time per worker, at most ray.batch_size."""
    timeout_seconds: float = 120.0
    """Limit of one request, the download of its response included. All attempts of a pass must fit deadlines.edit."""
    attempts: int = 5
    """Requests for one row before giving up, with growing waits, or those that the server asks for."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"url {self.url!r} is no http(s) address; give one such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ConfigError("url has a password or a query, which records would keep; name a variable in api_key_env")
        if not 16 <= self.size <= 8192:
            raise ConfigError(f"size is {self.size}; give 16 to 8192, 1024 fits most models")
        for name in ("concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 1 or more")
        if not 0 < self.timeout_seconds <= 3600:
            raise ConfigError(f"timeout_seconds is {self.timeout_seconds}; give more than 0, at most 3600")
        if taken := sorted((RESERVED | {self.mask_field}) & set(self.fields)):
            raise ConfigError(f"fields may not set {', '.join(taken)}; a param of its own or the row does")

    @property
    def needs(self) -> frozenset[str]:
        """Columns without which a row cannot be edited."""
        return frozenset({"prompt"})

    def overridden(self, values: Mapping[str, Any]) -> Params:
        """Return these params with a row's own values.

        Raises:
            ConfigError: an unknown name, or a value out of its range.
        """
        return overridden(self, values)
