"""Hypothesis strategies for zips as Python's zipfile writes them, and for the contents of safetensors headers."""

import io
import warnings
import zipfile
from math import prod

from hypothesis import strategies as st

from ckptool.convert.layout import layout
from ckptool.tensor import BITS, Inline, Tensor

PARTS = st.sampled_from(["archive", "data", "0", "1", "A", "a", "é", "version", ".", "..", "", "x" * 300]) | st.text(
    max_size=4
)
BODIES = st.binary(max_size=40) | st.sampled_from(
    [b"\0" * 5000, b"PK\x05\x06" + b"\0" * 18, b"PK\x03\x04", b"abc" * 999]
)
Members = list[tuple[str, bytes]]


@st.composite
def members(draw: st.DrawFn) -> Members:
    """Names, nearly always below one root, and bodies."""
    root = draw(st.sampled_from(["archive/", "archive/", "archive/", ""]))
    paths = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
    return draw(st.lists(st.tuples(paths.map(root.__add__), BODIES), max_size=5, unique_by=lambda item: item[0]))


@st.composite
def archives(draw: st.DrawFn) -> tuple[Members, bytes]:
    """Members and a zip that zipfile made of them: stored or deflated, with extras, comments, streamed or not."""
    content: Members = []
    file: io.BytesIO = Unseekable() if draw(st.sampled_from([False, False, True])) else io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # two members of one name
        if draw(st.integers(0, 9)) == 0:
            archive.comment = draw(st.binary(max_size=30))
        for name, body in draw(members()):
            info = zipfile.ZipInfo(name)
            content.append((info.filename, body))  # which ends before a NUL
            info.compress_type = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
            if draw(st.integers(0, 4)) == 0:
                info.comment = draw(st.binary(max_size=9))
                info.extra = draw(st.sampled_from([b"", b"FB\x02\x00ZZ", b"\xfe\xca\x00\x00"]))
            with archive.open(info, "w", force_zip64=draw(st.booleans())) as target:
                target.write(body)
    return content, file.getvalue()


class Unseekable(io.BytesIO):
    """A file that cannot be sought in, so that zipfile writes descriptors behind the members."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: object) -> int:
        raise OSError("not seekable")

    def tell(self) -> int:
        raise OSError("not seekable")


UTF8 = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Tensor, ...]:
    """Small tensors of any dtype under any name that is UTF-8."""
    names = draw(st.lists(UTF8.filter(lambda name: name != "__metadata__"), max_size=5, unique=True))
    return tuple(draw(small_tensor(name)) for name in names)


@st.composite
def small_tensor(draw: st.DrawFn, name: str) -> Tensor:
    dtype = draw(st.sampled_from([dtype for dtype, bits in BITS.items() if bits >= 8]))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    count = prod(shape) * BITS[dtype] // 8
    return Tensor(name, dtype, shape, Inline(draw(st.binary(min_size=count, max_size=count))))


METADATA = st.dictionaries(UTF8, UTF8, max_size=4)


def file_of(parts: tuple[Tensor, ...], metadata: dict[str, str]) -> bytes:
    """A safetensors file of tensors whose bytes are in memory."""
    made = layout(parts, metadata)
    return made.head + b"".join(t.data.data for t in made.tensors if isinstance(t.data, Inline))
