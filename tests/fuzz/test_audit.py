"""What the interpreter sees while a malicious file is scanned and converted: reads of it, one output, no more."""

import ast
import importlib
import os
import pickle
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from ckptool.convert.read import read
from ckptool.convert.scan import scan_file
from ckptool.convert.writer import write
from fixtures.assembler import Call, Global
from fixtures.tensors import of
from fixtures.torchfile import save_legacy, save_zip
from tests.fuzz.guard import Touched, guarded, install

UNHEARD = "wsgiref.simple_server"
"""A module that nothing here imports, so that its import could only be the file's doing."""
PAYLOADS = (
    Call(Global("posix", "system"), ("touch MARK",)),
    Call(Global("builtins", "exec"), ("open('MARK', 'w')",)),
    Call(Global("builtins", "compile"), ("1", "MARK", "eval")),
    Call(Global("subprocess", "Popen"), (["touch", "MARK"],)),
    Call(Global("socket", "create_connection"), (("127.0.0.1", 9),)),
    Call(Global("builtins", "open"), ("MARK", "w")),
    Call(Global("importlib", "import_module"), (UNHEARD,)),
    Call(Global(UNHEARD, "WSGIServer"), ()),
    Call(Global("torch.storage", "_load_from_bytes"), (b"cposix\nsystem\n(S'touch MARK'\ntR.",)),
)


@pytest.fixture(params=[save_zip, save_legacy], ids=["zip", "legacy"])
def malicious(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    tensor = of("F32", (2,), b"12345678")
    path = tmp_path / "model.ckpt"
    request.param({"state_dict": {"weight": tensor}, "callbacks": list(PAYLOADS)}, path)
    return path


def test_scan_and_convert_of_a_malicious_file_touch_nothing_but_the_output(malicious: Path) -> None:
    events: list[str] = []
    target = malicious.with_name("out.safetensors")
    install()  # which loads what the commands load lazily
    modules = set(sys.modules)
    with guarded(readable=None, events=events):
        found = scan_file(malicious)
        with ExitStack() as stack:
            write(read(malicious, stack), target)
    assert found.verdict == "dangerous"
    assert [event for event in events if not is_output(event, target)] == []
    assert UNHEARD not in sys.modules
    assert set(sys.modules) == modules
    assert sorted(path.name for path in target.parent.iterdir()) == ["model.ckpt", "out.safetensors"]


def is_output(event: str, target: Path) -> bool:
    """The unnamed file in the output's folder, or one with a name beside it, until it gets the output's."""
    name, _, arguments = event.partition(" ")
    if name == "open":
        path = ast.literal_eval(arguments)[0]
        return Path(path) == target.parent or (Path(path).parent == target.parent and str(path).endswith(".tmp"))
    return name == "os.rename" and str(target) in arguments


@pytest.mark.parametrize(
    "deed",
    [
        lambda: importlib.import_module(UNHEARD),
        lambda: exec("1"),
        lambda: open("never-made", "w"),  # noqa: SIM115
        lambda: os.system(""),
        lambda: socket.socket(),
        lambda: pickle.loads(b"cos\nsystem\n."),
    ],
    ids=["import", "exec", "open", "system", "socket", "pickle"],
)
def test_the_watch_sees_what_a_payload_would_do(deed: Callable[[], object]) -> None:
    with pytest.raises(Touched), guarded(readable=None):
        deed()
    assert UNHEARD not in sys.modules
