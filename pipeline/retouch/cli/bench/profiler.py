"""A timer for the parts of a pass: network by network, forward and backward, on the device's clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from retouch.cli.bench.measure import now

REST: Final = "rest"  # the time of a pass that belongs to no part


class PartTimer:
    """Seconds per part of a pass. On CUDA it records events, so that nothing waits for the device.

    Backward time is measured by hooks on gradients: the gradient of a part's output arrives when its backward pass
    begins, that of its input when it ends. So a part's input may be used elsewhere too, if later in the graph.
    """

    def __init__(self, device: str) -> None:
        self._device, self._on_cuda = device, torch.device(device).type == "cuda"
        self._stack: list[str] = []
        self._stamps: list[tuple[str, Any]] = []  # a part and when it began
        self.calls: Counter[str] = Counter()

    def start(self) -> None:
        """Clear all times and begin with the rest."""
        self._stack, self._stamps = [REST], []
        self.calls.clear()
        self._stamp()

    def stop(self) -> dict[str, float]:
        """Return the seconds of each part since ``start``; they add up to the whole."""
        self._stamp()
        if self._on_cuda:
            torch.cuda.synchronize()
        seconds: dict[str, float] = {REST: 0.0}
        for (part, began), (_, ended) in zip(self._stamps, self._stamps[1:], strict=False):
            seconds[part] = seconds.get(part, 0.0) + self._between(began, ended)
        return seconds

    def watch(self, parts: Mapping[str, Sequence[nn.Module]]) -> None:
        """Time all calls of these modules as their parts."""
        for part, modules in parts.items():
            for module in modules:
                module.register_forward_pre_hook(lambda _, inputs, part=part: self._before(part, inputs[0]))
                module.register_forward_hook(lambda _, inputs, out, part=part: self._after(part, out))

    def around(self, part: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return ``function``, timed as a part. Its first argument must be a tensor."""

        def watched(x: Tensor, *more: Any, **named: Any) -> Tensor:
            self._before(part, x)
            out = function(x, *more, **named)
            self._after(part, out)
            return out

        return watched

    def _before(self, part: str, x: Tensor) -> None:
        if x.requires_grad:
            x.register_hook(lambda _: self._leave())
        self.calls[part] += 1
        self._enter(part)

    def _after(self, part: str, out: Any) -> None:
        self._leave()
        first = out if isinstance(out, Tensor) else out[0] if isinstance(out, tuple) else None
        if first is not None and first.requires_grad:
            first.register_hook(lambda _: self._enter(part))

    def _enter(self, part: str) -> None:
        if self._stack:  # empty before the first start
            self._stack.append(part)
            self._stamp()

    def _leave(self) -> None:
        if self._stack:
            self._stack.pop()
            self._stamp()

    def _stamp(self) -> None:
        if not self._on_cuda:
            self._stamps.append((self._stack[-1], now(self._device)))
            return
        event: Any = torch.cuda.Event(enable_timing=True)
        event.record()
        self._stamps.append((self._stack[-1], event))

    def _between(self, began: Any, ended: Any) -> float:
        return float(began.elapsed_time(ended)) / 1000 if self._on_cuda else float(ended - began)
