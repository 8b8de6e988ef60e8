"""The shipped family's folder, and atomic writers of its files: safetensors in half precision, JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

SHIPPED: Final = Path(__file__).parent / "shapes"


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a module's weights in float16 (counters stay as they are)."""
    half: dict[str, Tensor] = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    _replace(path, lambda temporary: save_file(half, temporary))


def save_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a JSON file."""
    _replace(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n"))


def save_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write a training state, to resume from on this machine."""
    _replace(path, lambda temporary: torch.save(dict(state), temporary))


def _replace(path: Path, write: Any) -> None:
    """Write a temporary file, then rename it: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    temporary.chmod(0o644)  # safetensors makes files that only their owner reads
    os.replace(temporary, path)
