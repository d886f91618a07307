"""Torch's zip format and TorchScript archives: pickles and storages as records of one archive.

Source: torch/serialization.py (`_save`, `_load`) and caffe2/serialize/inline_container.h (names of the records).
"""

from ckptool.convert.archive import LOCAL, Archive, read_archive
from ckptool.convert.archive_directory import ODD
from ckptool.convert.contents import Contents
from ckptool.convert.examine import Pickle, Reader
from ckptool.convert.inflate import MAX_PICKLE, readable
from ckptool.convert.machine import Budget
from ckptool.convert.values import Dict, Module, Storage, Value
from ckptool.errors import CkptoolError, Malformed, NotACheckpoint, OverBudget, Truncated
from ckptool.source import Bytes, Record
from ckptool.tensor import Finding
from ckptool.text import escape, size

OWN_NAMES = frozenset({"data.pkl", "constants.pkl", "byteorder"})
"""Records that say how the others are read. Torch's zip reader ignores case."""
PICKLE_ENDINGS = (".pkl", ".pickle")
REPACK = "load it with the program that wrote it and save a plain state dict"


def read_zip(source: Bytes) -> Contents:
    """Interpret every pickle of the archive. Raises when the archive itself is no torch archive."""
    try:
        archive = read_archive(source)
    except Truncated as error:
        raise with_expected_end(source, error) from error
    check_kind(source, archive)
    script = "constants.pkl" in archive.records
    contents = Contents("torchscript" if script else "torch-zip")
    contents.locate = lambda storage: locate(source, archive, storage)
    if archive.unchecked:
        text = "the archive carries no checksums, so damage to its bytes would not be seen"
        contents.findings.append(Finding("no-checksums", "note", text))
    try:
        contents.big_endian = big_endian(archive)
    except CkptoolError as error:
        contents.error = error
    main = run_pickles(source, archive, contents)
    value = main.value
    if script:
        value = with_constants(main.value, contents.pickles)
    contents.value = value
    contents.error = contents.error or main.error
    return contents


def check_kind(source: Bytes, archive: Archive) -> None:
    """Name what is a zip, but no torch archive that can be read."""
    records = archive.records
    for name in OWN_NAMES & {name.lower() for name in records}:
        if name not in records:
            raise Malformed(f"{source.label}: an entry that torch takes for {name} is spelled otherwise", ODD)
    if "data.pkl" in records and any(name.startswith(".data/extern_modules") for name in records):
        raise NotACheckpoint(f"{source.label}: a torch.package archive, which holds code", REPACK)
    if "data.pkl" in records:
        return
    if "model.json" in records or "attributes.pkl" in records:
        raise NotACheckpoint(f"{source.label}: a TorchScript archive from before torch 1.4", REPACK)
    if any(name.startswith(("models/", "data/weights/")) for name in records):
        raise NotACheckpoint(f"{source.label}: a torch.export program", REPACK)
    if not archive.root and all(name.endswith(".npy") for name in records):
        raise NotACheckpoint(
            f"{source.label}: a numpy .npz archive", "load it with numpy and save the arrays as safetensors"
        )
    raise NotACheckpoint(
        f"{source.label}: a zip without data.pkl, so no torch checkpoint", "unpack it and give the file that is inside"
    )


def run_pickles(source: Bytes, archive: Archive, contents: Contents) -> Pickle:
    """Every pickle of the archive goes through the machine; data.pkl is the one that counts."""
    main: Pickle | None = None
    budget = Budget.of(source.size)
    inflated = 0
    for name, record in archive.records.items():
        if not is_pickle(name, record):
            continue
        reader = Reader(
            "constants/" if name == "constants.pkl" else "data/", script=contents.format == "torchscript", budget=budget
        )
        try:
            inflated += record.size if record.packed is not None else 0
            if inflated > MAX_PICKLE:
                raise OverBudget(f"{record.label}: deflated pickles of more than {size(MAX_PICKLE)}", REPACK)
            stored = readable(record)
        except CkptoolError as error:
            done = Pickle(name, 0, None, [], [], 0, error=error)
            reader.pickles.append(done)
        else:
            done = reader.run(stored, entry=name)
            if done.error is None and done.end < stored.size:
                contents.findings.append(trailing(reader, stored, done)[0])
        contents.pickles += reader.pickles
        if name == "data.pkl":
            main = done
    assert main is not None  # check_kind saw it
    return main


def is_pickle(name: str, record: Record) -> bool:
    if name.endswith(PICKLE_ENDINGS):
        return True
    if name.startswith(("data/", "constants/", "code/")) or record.packed is not None or record.size < 2:
        return False
    head = record.read(0, 2)
    return head[0] == 0x80 and 2 <= head[1] <= 5


def trailing(reader: Reader, record: Record, done: Pickle) -> tuple[Finding, Pickle | None]:
    """Bytes after STOP: no loader reads them; if they are a pickle, what it would do is reported too."""
    count = record.size - done.end
    extra = reader.run(record, done.end, done.entry, done.index + 1)
    text = f"{count:,} bytes follow the end of the pickle"
    finding = Finding("trailing-data", "note", text, escape(done.entry), done.index, done.end, action="dropped")
    if extra.error is None or extra.calls:
        return finding, extra
    reader.pickles.remove(extra)
    return finding, None


def big_endian(archive: Archive) -> bool:
    """What the `byteorder` record says; files without one were written by little-endian machines."""
    record = archive.records.get("byteorder")
    if record is None:
        return False
    order = readable(record).read(0, record.size) if record.size <= 16 else b"?"
    if order not in (b"little", b"big"):
        raise Malformed(
            f"{record.label}: neither 'little' nor 'big'", "the file is damaged or forged: get another copy"
        )
    if order == b"big" and "constants.pkl" in archive.records:
        raise Malformed(
            f"{record.label}: a big-endian TorchScript archive, which loaders take for little-endian", REPACK
        )
    return order == b"big"


def locate(source: Bytes, archive: Archive, storage: Storage) -> Record:
    """The record of a storage, whose length must be what the pickle says."""
    record = archive.records.get(storage.key)
    if record is None:
        name = escape(storage.key, 80)
        raise Malformed(
            f"{source.label}: the storage {name} is not in the archive", "the file is damaged: get another copy"
        )
    if record.size != storage.nbytes:
        raise Malformed(
            f"{record.label} has {record.size:,} bytes, the pickle says {storage.nbytes:,}",
            "the file is damaged or forged: get another copy",
        )
    return record


def with_constants(value: Value, pickles: list[Pickle]) -> Value:
    """TorchScript keeps literal tensors apart; they come out as `constants.0`, `constants.1`, …"""
    state = value.state if type(value) is Module else value
    constants = next((p.value for p in pickles if p.entry == "constants.pkl" and p.error is None), ())
    if type(state) is not Dict or type(constants) is not tuple or not constants:
        return value
    return Dict([*state.pairs, ("constants", list(constants))])


def with_expected_end(source: Bytes, error: Truncated) -> Truncated:
    """Where a zip that was cut off should end at least: its pickle comes first and names every storage."""
    try:
        head = Record.whole(source).read(0, LOCAL.size)
        _, _, _, method, *_, names, extras = LOCAL.unpack(head)
        if method != 0:
            return error
        reader = Reader()
        done = reader.run(Record.whole(source), LOCAL.size + names + extras)
        done.result()
    except CkptoolError:
        return error
    needed = sum(storage.nbytes for storage in reader.storages.values())
    if needed <= source.size:
        return error
    return Truncated(
        f"{source.label}: ends at byte {source.size:,}, but its tensors alone need {needed:,} bytes ({size(needed)})",
        "the download was cut off: download it again",
    )
