"""Devices go by the names that price tables have."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import torch
from retouch.models.devices import CPU, best_device, name_of


def test_the_device_is_the_one_that_torch_sees() -> None:
    assert best_device() == ("cuda" if torch.cuda.is_available() else CPU)


def test_a_core_is_called_cpu() -> None:
    assert name_of("cpu") == CPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_goes_by_the_name_that_nvidia_smi_has() -> None:
    if shutil.which("nvidia-smi") is None:
        pytest.skip("needs nvidia-smi")
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    names = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    assert name_of("cuda") in names
