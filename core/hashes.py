"""Hashes of whole files."""

from pathlib import Path

from ckptool.source import Bytes, File, expect

CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """The sha256 of a file in hex. Raises as `File.open` does: a pipe is not waited for."""
    with File.open(path) as file:
        return sha256_of_file(file)


def sha256_of_file(file: Bytes) -> str:
    """The sha256 of bytes at hand in hex, read through one buffer."""
    import hashlib  # most runs hash nothing

    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    expect(file, 0, file.size)
    for offset in range(0, file.size, CHUNK):
        piece = buffer[: min(CHUNK, file.size - offset)]
        file.read_into(piece, offset)
        digest.update(piece)
    return digest.hexdigest()
