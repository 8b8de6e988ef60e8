"""One thread within, and as many as before afterwards."""

import pytest
import torch
from retouch.editors.steady import steady_kernels


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_cpu_computes_with_one_thread(two_threads):
    with steady_kernels("cpu"):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_another_device_is_left_alone(two_threads):
    with steady_kernels("cuda:0"):
        assert torch.get_num_threads() == 2


def test_the_threads_come_back_after_an_error(two_threads):
    with pytest.raises(RuntimeError), steady_kernels("cpu"):
        raise RuntimeError
    assert torch.get_num_threads() == 2
