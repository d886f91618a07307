"""The rules that hold for every input, as hypothesis tests: the test suite runs them shortly, `run` at length."""

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hypothesis import HealthCheck, Verbosity, assume, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from ckptool.errors import CkptoolError
from tests.fuzz import archives, mutations, strategies, targets
from tests.fuzz.programs import Thaw, programs, shape_of

LONG = "CKPTOOL_FUZZ_EXAMPLES"
"""Environment variable: how many times as many examples as in the test suite; then they are chosen at random."""
FACTOR = int(os.environ.get(LONG, "0"))
SCRATCH = TemporaryDirectory(prefix="ckptool-fuzz-")
FOLDER = Path(SCRATCH.name)
Property = Callable[[], None]


def examples(count: int) -> Callable[[Any], Any]:
    """Settings of a property: the same examples every time in the test suite, so that it never fails by chance."""
    return settings(
        max_examples=count * (FACTOR or 1),
        derandomize=not FACTOR,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.normal,
    )


@examples(50)
@given(st.data())
def what_torch_saves_converts_to_what_torch_loads(data: st.DataObject) -> None:
    tree = data.draw(strategies.trees())
    file = data.draw(strategies.saved(tree))
    try:
        wanted = strategies.expected(tree)
    except strategies.Clash:
        assume(False)
    if strategies.is_loadable(file):
        assert strategies.expected(strategies.load(file)) == wanted
    found, plan = targets.convert(file.data, FOLDER)
    assert found == wanted
    assert not plan.findings
    assert targets.scan(file.data, FOLDER).verdict == "clean"


@examples(80)
@given(st.data())
def a_damaged_file_is_refused_or_read_as_torch_reads_it(data: st.DataObject) -> None:
    file = data.draw(strategies.saved(data.draw(strategies.trees())))
    changed = data.draw(mutations.mutants(file.data))
    targets.scan(changed, FOLDER)
    try:
        found, _ = targets.convert(changed, FOLDER)
    except CkptoolError:
        return
    loaded = careful_load(strategies.Saved(changed, strategies.WEIGHTS_ONLY_PROTOCOL, file.zipped))
    if loaded is not None:
        assert found == loaded


def careful_load(file: strategies.Saved) -> strategies.Expected | None:
    """What torch's restricted loader reads where it reads anything; None where the rules of naming differ."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = strategies.load(file)
            wanted = strategies.expected(value)
    except Exception:
        return None
    known = isinstance(value, dict) and not strategies.RESERVED & set(value)
    return wanted if known and wanted else None


@examples(200)
@given(programs())
def a_program_of_plain_values_means_what_pickle_makes_of_it(code: bytes) -> None:
    done = targets.interpret(code)
    try:
        theirs = pickle.loads(code)  # no opcode of these programs names anything
    except Exception:
        return
    if done.error is None:
        assert shape_of(Thaw()(done.value)) == shape_of(theirs), (done.value, theirs)


@examples(200)
@given(st.data())
def the_machine_ends_with_a_value_or_an_error_of_ours(data: st.DataObject) -> None:
    names = st.sampled_from([*mutations.NAMES])
    code = data.draw(programs())
    targets.interpret(data.draw(mutations.spliced(code)))
    body = data.draw(names) + b"(" + code[:-1] + b"t" + data.draw(st.sampled_from([b"R", b"\x81", b"R0N", b"Nb"]))
    targets.interpret(body + b"." + data.draw(st.binary(max_size=8)))


@examples(150)
@given(archives.archives())
def a_zip_of_zipfile_is_refused_or_read_the_same(made: tuple[archives.Members, bytes]) -> None:
    content, data = made
    found = targets.unzip(data)
    if found is not None:
        assert found == {name: body for name, body in content if not name.endswith("/")}
    assert targets.differs_from_zipfile(data) is None


@examples(200)
@given(st.data())
def a_damaged_zip_is_never_read_in_two_ways(data: st.DataObject) -> None:
    _, made = data.draw(archives.archives())
    changed = data.draw(mutations.damaged(made))
    assert targets.differs_from_zipfile(changed) is None


@examples(150)
@given(archives.tensors(), archives.METADATA)
def a_header_is_read_back_by_the_library_and_by_us(tensors: Any, metadata: dict[str, str]) -> None:
    data = archives.file_of(tensors, metadata)
    wanted = {t.name: (t.dtype, t.shape, t.data.data) for t in tensors}
    assert targets.by_library(data) == wanted
    assert targets.header(data) == wanted
    path = FOLDER / "header.safetensors"
    path.write_bytes(data)
    with safe_open(path, framework="pt") as file:
        assert (file.metadata() or {}) == metadata


@examples(200)
@given(st.data())
def a_damaged_safetensors_file_is_refused_or_read_as_the_library_reads_it(data: st.DataObject) -> None:
    made = archives.file_of(data.draw(archives.tensors()), data.draw(archives.METADATA))
    assert targets.differs_from_safetensors(data.draw(mutations.safetensors_damaged(made))) is None


PROPERTIES: tuple[Property, ...] = (
    what_torch_saves_converts_to_what_torch_loads,
    a_damaged_file_is_refused_or_read_as_torch_reads_it,
    a_program_of_plain_values_means_what_pickle_makes_of_it,
    the_machine_ends_with_a_value_or_an_error_of_ours,
    a_zip_of_zipfile_is_refused_or_read_the_same,
    a_damaged_zip_is_never_read_in_two_ways,
    a_header_is_read_back_by_the_library_and_by_us,
    a_damaged_safetensors_file_is_refused_or_read_as_the_library_reads_it,
)
torch.set_num_threads(1)
