"""Prompts of a call: encoded one row at a time and kept, or given as texts; and how many of their tokens are cut."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import torch

from retouch.editors.diffusers.loading import Loaded

KEPT: Final = 128  # encoded prompts; T5's take 4 MB each

Encoded = dict[str, Any]  # arguments of the pipeline's call for one row


class PromptEncoder:
    """Arguments of a pipeline's call for prompts."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._kept: OrderedDict[tuple[Any, ...], Encoded] = OrderedDict()

    def arguments(self, prompts: Sequence[str], negatives: Sequence[str], call: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments for some rows' prompts.

        Args:
            prompts: one per row.
            negatives: one per row; empty for none.
            call: the other arguments of the call, which decide whether a negative prompt is read.
        """
        if not self.loaded.family.embeds:
            return self._texts(prompts, negatives)
        rows = [self._encoded(*pair, call) for pair in zip(prompts, negatives, strict=True)]
        return {name: _joined([row[name] for row in rows]) for name in rows[0]}

    def _texts(self, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Any]:
        # New lists each time: some pipelines write into them (Z-Image puts its chat template there).
        found: dict[str, Any] = {"prompt": list(prompts)}
        if "negative_prompt" in self.loaded.arguments:
            empty = self.loaded.family.empty_negative
            if any(negatives) or empty is not None:
                found["negative_prompt"] = [text or empty or "" for text in negatives]
        return found

    def _encoded(self, prompt: str, negative: str, call: dict[str, Any]) -> Encoded:
        settings: dict[str, Any] = {n: call[n] for n in ("max_sequence_length", "clip_skip") if n in call}
        guided = is_guided(self.loaded, call)
        key = (prompt, negative, guided, *settings.items(), *call.get("lora_scales", ()))
        if key not in self._kept:
            if len(self._kept) >= KEPT:
                self._kept.popitem(last=False)
            self._kept[key] = self._encode(prompt, negative, guided, settings)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _encode(self, prompt: str, negative: str, guided: bool, settings: dict[str, Any]) -> Encoded:
        family = self.loaded.family
        if family.negative == "together":
            return self._encode_text(prompt, settings, do_classifier_free_guidance=guided, negative_prompt=negative)
        encoded = self._encode_text(prompt, settings)
        if family.negative == "again" and guided:
            again = self._encode_text(negative, settings)
            encoded |= {f"negative_{name}": value for name, value in again.items()}
        return encoded

    def _encode_text(self, prompt: str, settings: dict[str, Any], **more: Any) -> Encoded:
        pipe = self.loaded.pipe
        known = inspect.signature(pipe.encode_prompt).parameters
        given: dict[str, Any] = {"prompt": prompt, "device": pipe._execution_device, **settings, **more}
        given |= {name: None for name in ("prompt_2", "prompt_3") if name in known}
        given |= {"num_images_per_prompt": 1}
        with torch.no_grad():
            found = pipe.encode_prompt(**{name: value for name, value in given.items() if name in known})
        names = self.loaded.family.embeds
        return {name: value for name, value in zip(names, found, strict=True) if name and value is not None}

    def tokens_cut(self, prompt: str, call: dict[str, Any]) -> int:
        """Return how many tokens of a prompt no text encoder reads."""
        pipe, cut = self.loaded.pipe, []
        for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
            tokenizer = getattr(pipe, name, None)
            if tokenizer is None:
                continue
            is_clip = "CLIP" in type(tokenizer).__name__
            limit = None if is_clip else call.get("max_sequence_length", self.loaded.default("max_sequence_length"))
            limit = limit or tokenizer.model_max_length
            cut.append(max(0, len(tokenizer(prompt, truncation=False, verbose=False).input_ids) - limit))
        return min(cut, default=0)


def is_guided(loaded: Loaded, call: dict[str, Any]) -> bool:
    """Return whether a call reads the negative prompt: classifier-free guidance is on."""
    name = "true_cfg_scale" if "true_cfg_scale" in loaded.arguments else "guidance_scale"
    scale = call.get(name, loaded.default(name))
    return scale is not None and float(scale) > 1


def _joined(rows: Sequence[Any]) -> Any:
    """Return the rows' tensors [1, ...] as one [B, ...]; lists of tensors as one list."""
    if isinstance(rows[0], list):
        return [one for row in rows for one in row]
    return torch.cat(list(rows))
