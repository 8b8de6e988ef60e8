"""Price tables: the one that ships, the user's own, and what no table knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from retouch.errors import ConfigError
from retouch.jobs.prices import SHIPPED, Prices, load, unknown

OWN = """
currency: EUR
devices:
  - {names: [cpu, NVIDIA L4], per_hour: 0.5, when: 2026-11-01, source: our own rack}
"""


@pytest.fixture(autouse=True)
def _no_table_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETOUCH_PRICES", raising=False)


def test_the_table_that_ships_says_of_every_price_when_it_was_this_and_where() -> None:
    shipped = load()
    assert shipped.currency == "USD"
    assert shipped.devices
    for price in shipped.devices:
        assert price.when, price.names
        assert price.source, price.names
        assert price.per_hour > 0
    names = [name.lower() for price in shipped.devices for name in price.names]
    assert len(names) == len(set(names)), "a device has one price"


@pytest.mark.parametrize("device", ["NVIDIA H100 PCIe", "NVIDIA H100", "cpu", "A100", ""])
def test_a_device_that_the_table_does_not_name_has_no_price_whatever_it_resembles(device: str) -> None:
    assert load().of(device) is None
    assert load().cost(device, 1.0) is None


def test_a_name_is_found_whatever_its_case_and_costs_by_the_hour() -> None:
    price = load().of("nvidia h100 80gb hbm3")
    assert price is not None
    assert load().cost("NVIDIA H100 80GB HBM3", 2.0) == 2 * price.per_hour


def test_a_table_of_ones_own_replaces_ours_by_option_and_by_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = tmp_path / "own.yaml", tmp_path / "other.yaml"
    own.write_text(OWN)
    other.write_text("{currency: JPY, devices: []}")
    monkeypatch.setenv("RETOUCH_PRICES", str(own))
    assert (load().currency, load().cost("cpu", 3.0)) == ("EUR", 1.5)
    assert load().of("NVIDIA H100 80GB HBM3") is None, "it replaces, it does not add"
    assert load(str(other)).currency == "JPY", "the option comes before the environment"
    price = load().of("cpu")
    assert price is not None
    assert price.origin == "(our own rack, 2026-11-01)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("currency: [", "is not YAML"),
        ("[1, 2]", "valid"),
        ("{currency: USD, devices: [{names: [cpu], per_hour: -1}]}", r"devices\.0\.per_hour"),
        ("{currency: USD, devices: [{names: [], per_hour: 1}]}", r"devices\.0\.names"),
        ("{currency: USD, devices: [{names: [cpu], price: 1}]}", r"devices\.0\."),
        ("{devices: []}", "currency"),
        ("{currency: USD, devices: [3]}", r"devices\.0"),
        ("{currency: USD, devices: 3}", "devices"),
    ],
)
def test_a_wrong_table_is_one_line_that_names_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load(str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read.*none\.yaml"):
        load(str(tmp_path / "none.yaml"))


def test_the_message_about_an_unknown_device_names_the_fix() -> None:
    assert "--prices" in unknown("TPU")
    assert "RETOUCH_PRICES" in unknown("TPU")
    assert "'TPU'" in unknown("TPU")


def test_the_shipped_file_is_of_the_form_that_it_shows() -> None:
    assert SHIPPED.read_text().startswith("#")
    assert Prices.model_validate(load().model_dump()) == load()
