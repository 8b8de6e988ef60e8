from __future__ import annotations

from collections import Counter

import pytest
from retouch.errors import ConfigError
from retouch.training.finetune.domains import Domain, domain, domains


def test_there_are_the_54_published_names_in_their_groups() -> None:
    groups = Counter(found.source for found in domains().values())
    assert groups == {
        "face": 5, "person": 9, "Person": 3, "photo": 5, "Human": 6, "Dog": 10, "Church": 10, "Bedroom": 6
    }  # fmt: skip
    assert len(domains()) == 54


def test_each_leads_somewhere_and_no_two_the_same_way() -> None:
    pairs = [(found.source.lower(), found.target.lower()) for found in domains().values()]
    assert all(source.strip() and target.strip() and source != target for source, target in pairs)
    assert len(set(pairs)) == len(pairs)
    assert all(found.name == name for name, found in domains().items())


@pytest.mark.parametrize("name", ["tanned", "pale", "angry", "surprised", "smiling"])
def test_the_expressions_and_skins_are_adjectives_of_a_face(name: str) -> None:
    assert domain(name) == Domain(name, "face", f"{name} face")


def test_grey_hair_is_grey_and_not_the_published_slip() -> None:
    assert "grey" in domain("grey_hair").target
    assert domain("grey_hair").target != domain("red_hair").target


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("zombi", "zombie"), ("dog_venome", "dog_venom"), ("joker", "jocker"), ("Neandertal", "neanderthal")],
)
def test_a_slip_of_the_pen_is_answered_with_the_name_that_was_meant(wrong: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"no domain named '{wrong}'") as error:
        domain(wrong)
    assert near in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["male", "qqqq", ""])
def test_a_name_near_to_none_is_no_domain_either(name: str) -> None:
    with pytest.raises(ConfigError, match="no domain named"):
        domain(name)


def test_the_list_cannot_be_changed_by_who_reads_it() -> None:
    with pytest.raises(TypeError):
        domains()["new"] = Domain("new", "a", "b")  # type: ignore[index]
