"""The corpus is honest: what is said to run under plain torch.load does run. Slow, so only on request.

On Python 3.11, whose library has every module that a payload uses (`lib2to3` and `mailcap` are gone from later ones,
`operator.call` is not in earlier ones).
"""

import os
import sys
from pathlib import Path

import pytest

from fixtures.hostile.corpus import CASES
from fixtures.hostile.runner import run_corpus


@pytest.mark.skipif(
    "HOSTILE_FIRES" not in os.environ or sys.version_info[:2] != (3, 11),
    reason="HOSTILE_FIRES=1 runs every payload for real, on Python 3.11",
)
def test_payloads_run_under_plain_torch_load(tmp_path: Path) -> None:
    outcomes = run_corpus("load", tmp_path, workers=os.cpu_count() or 1)
    assert [case.name for case in CASES if case.fires and not outcomes[case.name]["marks"]] == []
