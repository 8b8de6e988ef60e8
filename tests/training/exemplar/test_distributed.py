"""Workers that agree: real processes in a real process group."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from retouch.errors import ManifestError, WeightsError
from retouch.training.exemplar.distributed import WorkerGroup
from torch import distributed, multiprocessing, nn


def test_a_single_worker_is_its_own_sum_and_raises_its_own_error() -> None:
    group = WorkerGroup("cpu")
    assert (group.rank, group.size, group.sum([2.5]), group.gather("x")) == (0, 1, [2.5], ["x"])
    assert group.succeed_or_fail_together(lambda: 3) == 3
    with pytest.raises(ManifestError, match="broken"):
        group.succeed_or_fail_together(lambda: _raise(ManifestError("broken")))


@pytest.mark.slow
def test_an_error_of_one_worker_is_raised_in_all_and_gradients_are_averaged(tmp_path: Path) -> None:
    multiprocessing.spawn(_work, (str(tmp_path),), nprocs=2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0]["sum"] == found[1]["sum"] == 1
    assert found[0]["gathered"] == found[1]["gathered"] == [0, 1]
    assert found[0]["error"] == found[1]["error"] == ["WeightsError", "no file here"]
    assert found[0]["gradient"] == found[1]["gradient"] == 1.5


def _raise(error: Exception) -> int:
    raise error


def _work(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", f"file://{folder}/group", world_size=2, rank=rank)
    group = WorkerGroup("cpu")
    found: dict[str, object] = {"sum": group.sum([rank])[0], "gathered": group.gather(rank)}
    try:
        group.succeed_or_fail_together(lambda: _raise(WeightsError("no file here")) if group.rank else 1)
    except WeightsError as error:
        found["error"] = [type(error).__name__, str(error)]
    layer = nn.Linear(1, 1, bias=False)
    together = group.parallel(layer)
    together(torch.full((1, 1), rank + 1.0)).sum().backward()
    found["gradient"] = layer.weight.grad.item()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
