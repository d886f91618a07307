"""`ckptool --help` is quick because it loads neither numpy nor torch."""

import subprocess
import sys
import sysconfig
from pathlib import Path

CKPTOOL = Path(sysconfig.get_path("scripts"), "ckptool")


def test_help_loads_neither_numpy_nor_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", CKPTOOL, "--help"], capture_output=True, text=True, check=True
    )
    # Lines of `import time: self | cumulative | name`, the name indented by its depth.
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "ckptool.cli" in loaded
    assert not loaded & {"numpy", "torch"}
