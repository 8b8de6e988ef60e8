"""Tuned networks are read at first use, and no more of them stay than asked for."""

from pathlib import Path

import pytest
from retouch.editors.diffusionclip.networks import TunedNetworks
from retouch.errors import WeightsError

from tests.helpers.families import write_family


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_family(tmp_path_factory.mktemp("family"))


class Loads(TunedNetworks):
    """Notes what is read."""

    read = ()

    def _load(self, path):
        self.read = [*self.read, Path(path).stem]
        return super()._load(path)


def test_a_network_is_read_at_its_first_use_and_again_after_it_made_room(weights):
    networks = Loads(weights, "cpu", keep=2)
    assert networks.read == ["unet"]
    for name in ("tuned", "other", "tuned", "third", "tuned", "other"):
        networks.get([name])
    assert networks.read == ["unet", "tuned", "other", "third", "other"]


def test_networks_that_are_mixed_are_all_there_whatever_is_kept(weights):
    networks = Loads(weights, "cpu", keep=1)
    names = ["tuned", "other", "third"]
    assert len({id(network.module) for network in networks.get(names)}) == 3
    networks.get(names)
    assert networks.read == ["unet", *names]
    networks.get(["third"])
    networks.get(["tuned"])
    assert networks.read == ["unet", *names, "tuned"]


def test_a_role_and_its_file_are_one_network(weights):
    networks = Loads(weights, "cpu", keep=2)
    assert networks.get(["tuned"])[0] is networks.get([weights["tuned"]])[0]


@pytest.mark.parametrize("name", ["nobody", "/no/such/file.pt", "relative/file.pt", ""])
def test_what_is_neither_role_nor_file_is_refused_with_the_roles(weights, name):
    with pytest.raises(WeightsError, match="the job names clip, other, third, tuned, unet"):
        TunedNetworks(weights, "cpu", keep=2).get([name])
