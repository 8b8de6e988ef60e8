"""``retouch schema`` prints what an editor can be pointed to."""

from __future__ import annotations

import json

import pytest
from retouch.cli.app import main


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["schema", *arguments])
    assert not ended.value.code
    return capsys.readouterr().out


def test_the_schema_of_one_kind_has_no_other_kind_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "--kind", "train"))
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "TrainJob" in found["$defs"]
    assert "EditJob" not in found["$defs"]


def test_a_kind_that_there_is_not_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["schema", "--kind", "edt"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "retouch: no kind 'edt'; did you mean edit?; there are: edit, finetune, train, evaluate\n"
    )
