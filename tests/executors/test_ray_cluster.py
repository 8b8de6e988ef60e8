"""A cluster that is started here, and what its wait is used for."""

from __future__ import annotations

import subprocess
import sys

LOCAL = """
import sys, threading
from pipeline.executors.ray_cluster import cluster
with cluster(None, None, meanwhile=sys.argv[1]) as may_grow:
    assert not may_grow
    print("imported", sys.argv[1] in sys.modules)
"""


def test_a_module_that_will_be_wanted_is_imported_while_ray_starts() -> None:
    done = subprocess.run([sys.executable, "-c", LOCAL, "colorsys"], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("imported True\n"), done.stderr
