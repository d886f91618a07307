"""Read a source, whatever it is, into a plan."""

from contextlib import ExitStack

from ckptool.address import Source
from ckptool.convert.contents import Contents
from ckptool.convert.dependence import check_independent
from ckptool.convert.findings import findings_of
from ckptool.convert.place import place_all
from ckptool.convert.remote import Place, Where, enter_at, is_folder, located
from ckptool.convert.safetensors_file import read_safetensors
from ckptool.convert.sniff import sniff
from ckptool.convert.state_dict import flatten
from ckptool.convert.torch_legacy import no_storages, read_pickles
from ckptool.convert.torch_zip import read_zip
from ckptool.convert.values import Dict, Value
from ckptool.errors import CkptoolError, Refused
from ckptool.source import Bytes, Record
from ckptool.tensor import Plan


def read(source: Source | Place, stack: ExitStack) -> Plan:
    """The plan of a file, a sharded index or a folder; `stack` closes the files when the bytes have flowed.

    Raises UsageError when there is nothing at `source`, Refused and its kin when it cannot be converted.
    """
    from ckptool.convert.folders import is_index, read_folder, read_index

    path = located(source)
    if is_folder(path):
        return read_folder(path, stack)
    if is_index(path):
        return read_index(path, stack)
    return read_file(path, stack)


def read_file(path: Where, stack: ExitStack) -> Plan:
    """The plan of one file."""
    source = enter_at(path, stack)
    kind = sniff(source)
    if kind == "safetensors":
        return read_safetensors(source)
    return plan_of(source, read_contents(source, kind))


def read_contents(source: Bytes, kind: str) -> Contents:
    """Interpret a file of pickles. `kind` is what `sniff` said."""
    return read_zip(source) if kind == "zip" else read_pickles(source)


def plan_of(source: Bytes, contents: Contents) -> Plan:
    """The plan behind what the pickles hold."""
    if contents.error is not None:
        raise contents.error
    try:
        flat = flatten(contents.value)
        check_independent(flat, [call for pickle in contents.pickles for call in pickle.calls])
        tensors = place_all(flat.tensors, contents.locate or no_storages, contents.big_endian, source.size)
    except CkptoolError as error:
        raise in_file(source, error) from error
    findings = tuple(findings_of(contents, "disarmed"))
    by_identity = {id(rebuilt): tensor for rebuilt, tensor in zip(flat.tensors.values(), tensors, strict=True)}
    structure = None
    if has_integer_keys(contents.value):
        from ckptool.convert.hypernetwork import structure_of

        structure = structure_of(contents.value, by_identity)
    metadata = {**flat.metadata, "format": "pt"}
    sources = (Record.whole(source),)
    return Plan(contents.format, tensors, tuple(flat.dropped), metadata, findings, sources, structure)


def has_integer_keys(value: Value) -> bool:
    """What tells a hypernetwork at first sight: it names its layers by their width."""
    return type(value) is Dict and any(type(key) is int for key, _ in value.pairs)


def in_file(source: Bytes, error: CkptoolError) -> CkptoolError:
    """The same error with the file's name in front, where it is not there yet."""
    if error.message.startswith(source.label):
        return error
    named = type(error) if issubclass(type(error), Refused) else Refused
    return named(f"{source.label}: {error.message}", error.hint)
