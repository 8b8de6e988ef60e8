from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from retouch.execution.timeouts import map_with_deadline

# A thread that never returns does not keep this program from exiting.
HANGS = """
import threading
from retouch.execution.timeouts import map_with_deadline
print(map_with_deadline([0, 1], lambda n: n or threading.Event().wait(), threads=1, seconds=0.2, late=lambda n: "late"))
"""


@given(st.lists(st.integers()), st.integers(1, 5), st.sampled_from([None, 60.0]))
def test_every_item_has_its_result_in_order(items: list[int], threads: int, seconds: float | None) -> None:
    doubled = map_with_deadline(items, lambda n: n * 2, threads=threads, seconds=seconds, late=lambda n: 0)
    assert doubled == [2 * n for n in items]


def test_late_items_are_abandoned_and_the_others_processed_even_if_every_thread_hangs() -> None:
    for_ever = threading.Event()

    def work(number: int) -> str:
        if number < 4:
            for_ever.wait()
        return str(number)

    results = map_with_deadline(range(8), work, threads=2, seconds=0.2, late=lambda number: f"late {number}")
    assert results == ["late 0", "late 1", "late 2", "late 3", "4", "5", "6", "7"]
    for_ever.set()


def test_an_exception_of_the_work_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        map_with_deadline([1, 0, 2], lambda n: 1 // n, threads=2, seconds=60, late=lambda n: 0)


def test_a_thread_that_hangs_does_not_keep_the_process_from_exiting() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "['late', 1]"
