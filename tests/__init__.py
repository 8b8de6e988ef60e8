"""The tests. Folders mirror the packages of ``retouch``; ``helpers`` holds what several of them use."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
