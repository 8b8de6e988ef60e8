"""The pipeline's timings: every row is answered on each way, and a record has what its readers look for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from retouch.cli.app import main
from retouch.cli.bench.editors import SIMULATED
from retouch.cli.bench.pipeline import measure, simulate
from retouch.errors import ConfigError

SIZES = {"rows", "seconds", "rows_per_second"}
STAGES = {"decode", "edit", "write"}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The quickstart's rows and shape with an editor that waits."""
    file = tmp_path_factory.mktemp("job") / "job.yaml"
    fields = {
        "name": "waiting",
        "manifest": "manifests/shapes.parquet",
        "output": "never/written",
        "editor": {"name": SIMULATED, "weights": {}, "params": {"seconds": 0.05}},
        "candidates": 4,
        "ray": {"batch_size": 8},
    }
    file.write_text(yaml.safe_dump(fields))
    return str(file)


@pytest.mark.long
@pytest.mark.ray
def test_the_same_rows_go_through_engine_run_and_plain_script(job: str) -> None:
    engine, run, plain = measure(job, minutes=0.005, actors=[1])
    assert [record["what"] for record in (engine, run, plain)] == ["engine", "ray", "plain script"]
    assert engine["rows"] == run["rows"] == plain["rows"] >= 2
    assert {*SIZES, "efficiency", "pass_seconds", "start"} <= run.keys()
    assert set(run["stage_seconds"]) == STAGES
    assert set(run["start"]) == {"plan", "start", "load", "end", "first_image"}
    assert 0 < run["busy"] <= 1
    assert plain["efficiency"] > 0


@pytest.mark.long
@pytest.mark.ray
def test_simulated_actors_answer_all_their_rows() -> None:
    (record,) = simulate("jobs/quickstart.yaml", actors=[2], latency=0.05, passes=3, declared=False)
    assert (record["actors"], record["rows"]) == (2, 12)
    assert {*SIZES, "of_linear", "start"} <= record.keys()
    assert record["pass_seconds"] >= 2 * 3 * 0.05


def test_a_job_that_edits_nothing_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        yaml.safe_dump({"kind": "evaluate", "name": "e", "results": "r", "output": "o", "metrics": ["fid"]})
    )
    with pytest.raises(ConfigError, match="kind evaluate"):
        next(simulate(str(file), actors=[1], latency=0.05))


@pytest.mark.parametrize("numbers", ["one", "0", "1,-2"])
def test_numbers_of_actors_that_mean_nothing_are_refused(numbers: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "pipeline", "--actors", numbers])
    assert ended.value.code == 2
    assert "--actors" in capsys.readouterr().err


def test_a_line_for_people_says_what_a_record_holds() -> None:
    from retouch.cli.bench.command import _line

    record = {"what": "ray", "actors": 2, "rows": 72, "seconds": 91.2, "rows_per_second": 0.789, "efficiency": 0.971}
    assert _line({**record, "start": {"plan": 2.1}}) == (
        "ray, 2 actors: 72 rows in 91.20 s, 0.789 rows/s, 97.1% of the bare engine; plan 2.1 s"
    )
    assert json.loads(json.dumps(record)) == record
