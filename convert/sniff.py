"""Tell what a file is by its leading bytes, never by its name."""

from ckptool.errors import NotACheckpoint
from ckptool.source import Bytes, Record

HEAD = 512
UNPACK = "unpack it and give the file that is inside"

# Leading bytes of what is often mistaken for a checkpoint: what it is, and what to do.
IMPOSTORS: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "a git-lfs pointer, not the file it stands for",
        "run `git lfs pull` in its repository",
    ),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!\x1a\x07", "a rar archive", UNPACK),
    (b"\x1f\x8b", "a gzip file", UNPACK),
    (b"BZh", "a bzip2 file", UNPACK),
    (b"\xfd7zXZ\x00", "an xz file", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd file", UNPACK),
    (b"\x04\x22\x4d\x18", "an lz4 file", UNPACK),
    (b"PK\x05\x06", "an empty zip", "get another copy"),
    (b"PK\x07\x08", "one part of a split zip", "join the parts first"),
    (b"GGUF", "a GGUF file", "ckptool reads torch and safetensors files"),
    (b"GGML", "a GGML file", "ckptool reads torch and safetensors files"),
    (b"\x93NUMPY", "a numpy .npy file", "load it with numpy and save it as safetensors"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 (Keras) file", "ckptool reads torch and safetensors files"),
    (b"\x08\x00\x00\x00ONNX", "an ONNX file", "ckptool reads torch and safetensors files"),
    (b"\x89PNG", "a PNG picture", "give the model's file"),
    (b"\xff\xd8\xff", "a JPEG picture", "give the model's file"),
    (b"%PDF", "a PDF document", "give the model's file"),
    (b"\x7fELF", "a program", "give the model's file"),
    (b"MZ", "a program", "give the model's file"),
)
TAR_MAGIC = (257, b"ustar")


def sniff(source: Bytes) -> str:
    """`zip`, `safetensors` or `pickle`. Raises NotACheckpoint for anything that has another name."""
    if source.size == 0:
        raise NotACheckpoint(f"{source.label}: the file is empty", "download it again")
    head = Record.whole(source).read(0, min(HEAD, source.size))
    if is_safetensors(head, source.size, source.size - 8):
        return "safetensors"  # first: the length of its header can spell anything
    for magic, name, hint in IMPOSTORS:
        if head.startswith(magic):
            raise NotACheckpoint(f"{source.label}: this is {name}", hint)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<"):
        raise NotACheckpoint(
            f"{source.label}: this is a web page, not a model", "the download needs a login or another address"
        )
    if text.startswith(b"{") and not head.startswith(b"{"):
        raise NotACheckpoint(f"{source.label}: this is a JSON text", "give the model's file, or its *.index.json")
    if is_tar(head):
        raise NotACheckpoint(
            f"{source.label}: this is a tar archive (torch before 0.1.10 wrote such files)",
            "save it again with a newer torch, or unpack it",
        )
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if is_safetensors(head, source.size, 100_000_000):
        return "safetensors"  # cut or forged, and named so by its reader
    if head[0] in FIRST_OPCODES:
        return "pickle"
    raise NotACheckpoint(
        f"{source.label}: no torch, pickle or safetensors file begins like this ({head[:8].hex(' ')})", "check the file"
    )


# What a pickle can begin with: PROTO, or anything that pushes, for protocol 0 and 1.
FIRST_OPCODES = frozenset(b"\x80(]})cNIJKMLFGSTUVX\x88\x89\x8a\x8b\x8c\x8d\x8e\x8fBC\x95\x96lditP")


def is_safetensors(head: bytes, size: int, longest: int) -> bool:
    """A header length of at most `longest`, then JSON."""
    length = int.from_bytes(head[:8], "little")
    return size > 8 and head[8:9] == b"{" and (length <= longest or (head[8:10] == b'{"' and longest > size))


def is_tar(head: bytes) -> bool:
    at, magic = TAR_MAGIC
    return head[at : at + len(magic)] == magic
