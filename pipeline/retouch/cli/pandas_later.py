"""pandas for who uses it, and not because pyarrow looks whether it is there, at the first array that is made.

That is a second of every command.
"""

from __future__ import annotations

import functools
import sys

from retouch.models import lean_imports


@functools.cache
def put_off() -> None:
    """Have pyarrow know pandas' types from when pandas is imported by somebody else, or asked of pyarrow."""
    if "pandas" not in sys.modules:
        lean_imports.after("pyarrow", _look_in_vain)
        lean_imports.after("pandas", _tell_arrow)


def _look_in_vain() -> None:
    """Have pyarrow look for pandas once and not find it. What of pyarrow makes pandas objects looks again."""
    import pyarrow as pa

    if "pandas" not in sys.modules:
        with lean_imports.absent("pandas"):
            pa.array([None])


def _tell_arrow() -> None:
    """Have pyarrow look again, or it would take a Series for a list."""
    arrow = sys.modules.get("pyarrow.lib")
    if arrow is not None:
        _ = arrow._pandas_api.pd
