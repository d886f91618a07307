"""Hypothesis strategies that damage files: bytes flipped, cut, repeated; opcodes of pickles moved about."""

import contextlib
import io
import pickletools
import zipfile
from struct import pack

from hypothesis import strategies as st

from fixtures.torchzip import ZipWriter
from tests.fuzz.programs import ATOMS, MADE

NUMBERS = [
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\xff" * 8,
    b"\x7f",
    b"\x80",
    b"\x00",
    b"PK\x05\x06",
    b"PK\x03\x04",
]
NAMES = (
    b"cos\nsystem\n", b"cposix\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\ngetattr\n", b"ctorch\nSize\n",
    b"ctorch._utils\n_rebuild_tensor\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_tensor_v3\n",
    b"ctorch._utils\n_rebuild_parameter\n", b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ctorch\nFloatStorage\n",
    b"ctorch.storage\n_load_from_bytes\n", b"ctorch.storage\nUntypedStorage\n", b"ctorch\nfloat32\n",
    b"ctorch\ndevice\n", b"ccollections\nOrderedDict\n", b"ccollections\ndefaultdict\n", b"cbuiltins\nset\n",
    b"cbuiltins\nbytearray\n", b"c_codecs\nencode\n", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n",
    b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy._core.numeric\n_frombuffer\n", b"ctorch.nn.modules.linear\nLinear\n",
    b"ctorch.jit._pickle\nbuild_intlist\n", b"R", b"\x81", b"\x92", b"b", b"o", b"ios\nsystem\n", b"\x93", b"Q",
    b"P0\n",
)  # fmt: skip
"""Names with a meaning, names with a danger, and the opcodes that use them."""


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """A few changes of bytes anywhere."""
    made = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(made)))
        other = draw(st.integers(0, len(made)))
        match draw(st.integers(0, 4)):
            case 0 if at < len(made):
                made[at] ^= draw(st.integers(1, 255))
            case 1:
                del made[at : at + draw(st.integers(1, 64))]
            case 2:
                made[at:at] = made[other : other + draw(st.integers(1, 128))]
            case 3:
                number = draw(st.sampled_from(NUMBERS))
                made[at : at + len(number)] = number
            case _:
                del made[at:]
    return bytes(made)


def operations(data: bytes) -> list[bytes]:
    """The opcodes of a pickle with their arguments, as far as it can be read."""
    starts: list[int] = []
    with contextlib.suppress(ValueError, IndexError):
        for _, _, start in pickletools.genops(data):
            starts.append(start or 0)
    return [data[begin:end] for begin, end in zip(starts, [*starts, len(data)][1:], strict=True)]


@st.composite
def spliced(draw: st.DrawFn, data: bytes) -> bytes:
    """A pickle with opcodes removed, repeated, moved, and others put between them."""
    steps = operations(data) or [data]
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(steps)))
        other = draw(st.integers(0, len(steps)))
        match draw(st.integers(0, 4)):
            case 0:
                del steps[at : at + draw(st.integers(1, 3))]
            case 1:
                steps[at:at] = steps[other : other + draw(st.integers(1, 8))]
            case 2:
                steps.insert(at, draw(st.sampled_from(ATOMS)))
            case 3:
                steps.insert(at, draw(st.sampled_from(MADE)))
            case _:
                steps.insert(at, draw(st.sampled_from(NAMES)))
    return b"".join(steps)


@st.composite
def with_spliced_pickle(draw: st.DrawFn, data: bytes) -> bytes:
    """A zip of torch's with the opcodes of its data.pkl spliced, and all sums right again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    members["data.pkl"] = draw(spliced(members["data.pkl"]))
    file = io.BytesIO()
    writer = ZipWriter(file, "archive")
    for name, body in members.items():
        writer.add(name, body)
    writer.finish()
    return file.getvalue()


@st.composite
def mutants(draw: st.DrawFn, data: bytes) -> bytes:
    """A torch file, damaged or with its opcodes spliced."""
    if draw(st.integers(0, 2)) == 0:
        return draw(damaged(data))
    return draw(with_spliced_pickle(data) if data.startswith(b"PK") else spliced_legacy(data))


@st.composite
def spliced_legacy(draw: st.DrawFn, data: bytes) -> bytes:
    """A legacy file with its fourth pickle, the one with the tensors, spliced."""
    begin, end = 0, 0
    for _ in range(4):
        begin = end
        end += ends_at(data[begin:])
    return data[:begin] + draw(spliced(data[begin:end])) + data[end:]


def ends_at(data: bytes) -> int:
    """Length of the pickle that data begin with."""
    return max(start or 0 for _, _, start in pickletools.genops(data)) + 1


HEADERS = [
    b'{"a":',
    b'"dtype":"F32"',
    b"[0,4]",
    b"-1",
    b"1e9",
    b'"\\ud800"',
    b"__metadata__",
    b"null",
    b"true",
    b"{",
    b"}",
]


@st.composite
def safetensors_damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """A safetensors file with its header changed and its length right again, or any byte changed."""
    if draw(st.booleans()):
        return draw(damaged(data))
    length = int.from_bytes(data[:8], "little")
    head = bytearray(data[8 : 8 + length])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(head)))
        head[at : at + draw(st.integers(0, 8))] = draw(st.sampled_from(HEADERS) | st.binary(max_size=3))
    return pack("<Q", len(head)) + bytes(head) + data[8 + length :]
