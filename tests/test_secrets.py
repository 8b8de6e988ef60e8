"""Credentials planted wherever a user can put them are found nowhere in what a run leaves and says.

Everything is real: the command in a process of its own, objects on an S3 server, addresses with names, passwords and
signatures. Every planted value holds ``PLANTED``, so one search finds whichever gets through.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from retouch import storage
from retouch.cli.app import main
from retouch.errors import ManifestError
from retouch.execution.edit import run
from retouch.execution.evaluate import evaluate
from retouch.execution.finetune import finetune
from retouch.execution.plan import make_plan, refuse_another_job
from retouch.execution.train import train
from retouch.jobs.config import EditJob, EvaluateJob, FinetuneJob, parse_job
from retouch.manifests.reader import read
from retouch.outputs import results, status
from rich.console import Console

from tests.helpers.datasets import painter_job, picture, png, square, write_dataset
from tests.helpers.s3_server import Endpoint
from tests.helpers.telltale import PLANTED
from tests.training.exemplar import tiny as training
from tests.training.finetune import tiny

VARIABLES = {
    "AWS_SESSION_TOKEN": f"{PLANTED}/session+token=",
    "HF_TOKEN": f"hf_{PLANTED}Token",
    "AZURE_STORAGE_KEY": f"{PLANTED}AzureKey==",
    "GOOGLE_API_KEY": f"{PLANTED}GoogleKey",
    "MINE_PASSWORD": f"{PLANTED}-password",
}
# The same number of characters is in each: a signature of another length would be another refusal.
SIGNED = f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={PLANTED}%2F20260101&X-Amz-Date=20260101T000000Z"
SIGNED += f"&X-Amz-Expires=600&X-Amz-SignedHeaders=host&X-Amz-Signature={PLANTED}00"
RECORDS = {"run.json", "events.jsonl", "summary.json", "report.html", "requests.parquet"}
AGAIN = SIGNED.replace("20260101", "20260102").replace(f"{PLANTED}00", f"{PLANTED}01")


@dataclass(frozen=True)
class Service:
    """A bucket, by its S3 address and by its web addresses."""

    s3: str
    web: str

    def signed(self, name: str, query: str = SIGNED) -> str:
        return f"{self.web}/{name}?{query}"

    def with_password(self, name: str) -> str:
        return f"{self.web.replace('://', f'://me:{PLANTED}pass@')}/{name}"


@pytest.fixture
def service(moto_s3: str, moto_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Images, a manifest and weights on a server, and secrets in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"{PLANTED}AccessKey")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{PLANTED}/secret+key/of")
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    made = Service(moto_s3, f"{moto_endpoint.url}/{moto_s3.removeprefix('s3://')}")
    storage.write_bytes(f"{moto_s3}/0.png", png(picture(0)))
    storage.write_bytes(f"{moto_s3}/mask.png", png(square()))
    storage.write_bytes(f"{moto_s3}/text.png", b"no image")
    storage.write_bytes(f"{moto_s3}/unet.bin", b"weights")
    return made


def rows(service: Service) -> dict[str, dict[str, Any]]:
    """By key: rows that are edited, and rows that fail each in another way; all with a secret somewhere."""
    return {
        "good-signed": {"image": service.signed("0.png"), "mask": service.signed("mask.png")},
        "good-password": {"image": service.with_password("0.png")},
        "good-environment": {"image": f"{service.s3}/0.png"},
        "bad-signed": {"image": service.signed("none.png")},
        "bad-password": {"image": service.with_password("none.png")},
        "bad-s3-password": {"image": f"s3://me:{PLANTED}/of+s3@bucket/0.png"},
        "bad-refused": {"image": f"{service.web}/0.png?v={VARIABLES['GOOGLE_API_KEY']}"},
        "bad-sas": {"image": f"{service.web}/none.png?sv=2024&se=2026&sp=r&sig={PLANTED}Sas%3D"},
        "bad-mask": {"image": f"{service.s3}/0.png", "mask": service.signed("text.png")},
        "bad-params": {"image": f"{service.s3}/0.png", "params": json.dumps({"grey": service.signed("x")})},
        "bad-edit": {"image": f"{service.s3}/0.png", "prompt": f"tell {VARIABLES['MINE_PASSWORD']}"},
    }


def write_manifest(service: Service) -> None:
    """Callers' columns hold secrets too, plain and nested."""
    table = pa.Table.from_pylist(
        [
            {
                "key": key,
                **dict.fromkeys(("mask", "prompt", "params")),
                **row,
                "origin": service.signed(f"{key}.png"),
                "tries": [{"from": service.with_password("x"), "n": 1}],
            }
            for key, row in rows(service).items()
        ]
    )
    out = io.BytesIO()
    pq.write_table(table, out)
    storage.write_bytes(f"{service.s3}/rows.parquet", out.getvalue())


def job_of(folder: Path, service: Service, query: str = SIGNED, **changes: Any) -> EditJob:
    weights = {"unet": service.signed("unet.bin", query), "clip": service.with_password("unet.bin")}
    editor = {"name": "tests.helpers.telltale:Telltale", "weights": weights}
    return painter_job(
        folder, service.signed("rows.parquet", query), **{"editor": editor, "max_failure_rate": 1.0, **changes}
    )


def everything(output: str) -> dict[str, str]:
    """Every file of an output as text, tables decoded, and its name."""
    found = {}
    for file in storage.list_files(output):
        data = storage.read_bytes(file)
        found[file] = data.decode("latin-1")
        if file.endswith(".parquet"):
            found[f"{file} decoded"] = json.dumps(pq.read_table(io.BytesIO(data)).to_pylist(), default=repr)
    return found


def leaks(texts: dict[str, str]) -> dict[str, str]:
    """Where a secret got through, and what stands around it."""
    found = {name: text.find(PLANTED) for name, text in texts.items()}
    return {name: texts[name][max(0, at - 80) : at + 40] for name, at in found.items() if at >= 0}


@pytest.mark.parametrize("where", [pytest.param("local", marks=pytest.mark.long), "s3"])
def test_a_run_leaves_and_says_no_secret(
    tmp_path: Path, service: Service, where: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_manifest(service)
    job = job_of(tmp_path, service, output=str(tmp_path / "out") if where == "local" else f"{service.s3}/out")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    call = [sys.executable, "-P", "-m", "retouch", "run", str(tmp_path / "job.yaml"), "--executor", "local"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    left = everything(job.output)
    assert leaks({**left, "stdout": done.stdout, "stderr": done.stderr}) == {}
    assert {file.rpartition("/")[2] for file in left} >= RECORDS
    answers = {row["key"]: row for row in results.read(job.output).to_pylist()}
    assert {key for key, row in answers.items() if row["status"] == "success"} == {
        k for k in rows(service) if "good" in k
    }
    assert answers["bad-signed"]["error_message"].endswith("/none.png?***")
    assert answers["bad-edit"]["error_message"] == "refused: ***, at http://***@host"
    assert answers["good-signed"]["origin"].endswith("/good-signed.png?***")

    again = job_of(tmp_path, service, AGAIN, output=job.output)
    assert make_plan(again).left == 0
    refuse_another_job(make_plan(again))
    capfd.readouterr()  # the server speaks, too, and knows what it was asked
    for name in ("verify", "status", "report"):
        with contextlib.suppress(SystemExit):
            main([name, job.output])
    assert leaks({**everything(job.output), "said": said(capfd)}) == {}


def said(capfd: pytest.CaptureFixture[str]) -> str:
    """What was printed since the last call, without the server's lines."""
    out, err = capfd.readouterr()
    return "".join(line for line in (out + err).splitlines(keepends=True) if " HTTP/1.1" not in line)


def test_a_command_that_fails_says_why_and_no_secret(
    tmp_path: Path, service: Service, capfd: pytest.CaptureFixture[str]
) -> None:
    write_manifest(service)
    password = f"s3://me:{PLANTED}/of+s3@bucket"
    changes = {
        "no manifest": f"manifest={service.signed('none.parquet')}",
        "no parquet": f"manifest={service.signed('text.png')}",
        "no weights": f"editor.weights={service.with_password('none.bin')}",
        "wrong weights": f"editor.weights='{service.web}/unet.bin#sha256={'0' * 64}'",
        "no bucket": f"editor.weights={password}/unet.bin",
        "no output": f"output={password}/out",
        "no such parameter": f"editor.params={{grey: {service.signed('x')}}}",
        "no such field": f"colour={PLANTED}",
    }
    job = job_of(tmp_path, service)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    told = {}
    for name, change in changes.items():
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["run", str(tmp_path / "job.yaml"), "--executor", "local", "--set", change])
        assert stopped.value.code in (1, 2, 3), name
        told[name] = said(capfd)
        assert told[name].startswith("retouch: "), told[name]
        assert told[name].count("\n") == 1, told[name]
    assert leaks(told) == {}


def test_an_error_that_nobody_foresaw_keeps_its_traceback_without_the_secret(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINE_PASSWORD", VARIABLES["MINE_PASSWORD"])

    def broken(output: str, prices: object) -> None:
        try:
            raise ValueError(f"AWS_SECRET_ACCESS_KEY={PLANTED}")
        except ValueError as error:
            raise RuntimeError(f"{VARIABLES['MINE_PASSWORD']} at https://me:{PLANTED}@host/{output}") from error

    monkeypatch.setattr(status, "read_status", broken)
    with pytest.raises(SystemExit) as stopped:
        main(["status", "out"])
    told = said(capfd)
    assert stopped.value.code == 1
    assert "RuntimeError: *** at https://***@host/out" in told
    assert "Traceback" in told
    assert leaks({"told": told}) == {}


def test_a_key_that_holds_a_secret_is_refused_for_it_would_name_a_file(tmp_path: Path) -> None:
    keys = ["a", f"https://host/a.png?token={PLANTED}", "b"]
    pq.write_table(pa.table({"key": keys, "image": ["a.png"] * 3}), tmp_path / "rows.parquet")
    with pytest.raises(ManifestError, match="1 keys hold a password or a signature, first row 1") as error:
        read(str(tmp_path / "rows.parquet"))
    assert leaks({"error": str(error.value)}) == {}


def test_callers_columns_keep_their_types_and_all_that_is_no_secret(tmp_path: Path) -> None:
    plain = {"text": "a ? b", "tags": ["x", None], "nested": {"u": "s3://b/k", "n": 1.5}, "n": 3, "none": None}
    secret = {
        **plain,
        "tags": [f"https://h/a?sig={PLANTED}&v=1", "y"],
        "nested": {"u": f"ftp://u:{PLANTED}@h/x", "n": 2.0},
    }
    table = pa.Table.from_pylist([{"image": image, **row} for image, row in (("a.png", plain), ("b.png", secret))])
    pq.write_table(table, tmp_path / "rows.parquet")
    found = read(str(tmp_path / "rows.parquet")).table.select(list(plain))
    first, second = found.to_pylist()
    assert first == plain
    assert second == {**plain, "tags": ["https://h/a?***&v=1", "y"], "nested": {"u": "ftp://***@h/x", "n": 2.0}}
    assert found.drop_columns(["none"]).schema.types == table.select(list(plain)).drop_columns(["none"]).schema.types


def with_token(path: Path) -> str:
    """An address of the same file that ends in a token: this disk takes it for a name."""
    named = path.with_name(f"{path.name}?token={PLANTED}")
    named.write_bytes(path.read_bytes())
    return f"local://{named}"


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_the_records_of_a_fine_tuning_hold_no_secret(tmp_path: Path) -> None:
    rows = with_token(tiny.write_rows(tmp_path))
    job = parse_job(tiny.job(tmp_path, tiny.write_networks(tmp_path / "files"), rows), "test")
    assert isinstance(job, FinetuneJob)
    finetune(job, executor="local", console=quiet())
    left = everything(job.output)
    assert {"run.json", "summary.json", "events.jsonl", "cat.json"} <= {file.rpartition("/")[2] for file in left}
    assert "manifest.parquet?***" in left[f"{job.output}/run.json"]
    assert leaks(left) == {}


def test_the_records_of_a_training_hold_no_secret_and_another_signature_is_no_other_training(tmp_path: Path) -> None:
    rows = with_token(training.write_rows(tmp_path, 12))
    for manifest in (rows, rows.removesuffix(f"?token={PLANTED}")):
        train(training.train_job(tmp_path, manifest=manifest), executor="local", console=quiet())
    left = everything(str(tmp_path / "out"))
    assert {"run.json", "summary.json", "events.jsonl"} <= {file.rpartition("/")[2] for file in left}
    assert leaks(left) == {}


def test_the_records_of_an_evaluation_hold_no_secret(tmp_path: Path) -> None:
    made = painter_job(tmp_path, write_dataset(tmp_path, 2), metrics=[])
    run(made, executor="local", console=quiet())
    data = {"kind": "evaluate", "name": "bench", "results": made.output, "output": str(tmp_path / "bench")}
    rows = with_token(tmp_path / "manifest.parquet")
    job = parse_job({**data, "manifest": rows, "row_metrics": ["background_l1"]}, "test")
    assert isinstance(job, EvaluateJob)
    evaluate(job, executor="local", console=quiet())
    left = everything(job.output)
    assert "manifest.parquet?***" in left[f"{job.output}/metrics.json"]
    assert leaks(left) == {}
