"""No command imports pandas for nothing; who imports it meets a pyarrow that knows its types."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import ROOT

BEGIN = "import sys; from retouch.cli.pandas_later import put_off; put_off(); put_off()\n"
ARROW = "import pyarrow as pa; array = pa.array([1.0, None])\n"
PANDAS = "import pandas as pd\n"
# Of a Series a missing number is null, of a list not; of a DataFrame a table is made, of something else none.
KNOWN = (
    "assert pa.array(pd.Series([1.0, float('nan')])).null_count == 1\n"
    "assert pa.table(pd.DataFrame({'a': [1]})).num_rows == 1\n"
)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_an_array_does_not_bring_pandas() -> None:
    assert run(f"{ARROW}assert 'pandas' in sys.modules".replace("assert", "import sys; assert")).returncode == 0
    done = run(f"{BEGIN}{ARROW}assert array.null_count == 1\nassert 'pandas' not in sys.modules")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "order",
    [
        BEGIN + ARROW + PANDAS,
        BEGIN + PANDAS + ARROW,
        ARROW + BEGIN + PANDAS,
        PANDAS + BEGIN + ARROW,
        "import pyarrow\n" + BEGIN + PANDAS + ARROW,
        BEGIN + "import ray.data\n" + PANDAS + ARROW,
    ],
)
def test_pyarrow_knows_pandas_in_whatever_order_they_come(order: str) -> None:
    done = run(order + KNOWN)
    assert done.returncode == 0, done.stderr


def test_a_table_becomes_a_data_frame_though_nobody_has_imported_pandas() -> None:
    done = run(f"{BEGIN}{ARROW}frame = pa.table({{'a': array}}).to_pandas()\n{PANDAS}{KNOWN}assert len(frame) == 2")
    assert done.returncode == 0, done.stderr


def test_a_command_does_not_import_pandas() -> None:
    code = "import sys; from retouch.cli.app import main\ntry:\n    main(['status', 'runs/none'])\nfinally:\n"
    done = run(f"{code}    assert 'pyarrow' in sys.modules and 'pandas' not in sys.modules")
    assert "AssertionError" not in done.stderr, done.stderr
    assert "runs/none" in done.stderr
