"""What a run has put somewhere, as a folder of this machine: the folder itself, or one that stands for a bucket."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ckptool.hashes import sha256_of


@dataclass(slots=True, eq=False)
class View:
    """A folder, and how what lies in it is shown and hashed."""

    folder: Path
    told: Callable[[Path], str] = str
    hashed: Callable[[Path], str] = sha256_of
    strange: list[tuple[str, str]] = field(default_factory=list)
    """What is there and has no file in the folder, and why."""
