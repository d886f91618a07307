"""Hashes of whole files."""

from pathlib import Path

from ckptool.source import File

CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """The sha256 of a file in hex. Raises as `File.open` does: a pipe is not waited for."""
    with File.open(path) as file:
        return sha256_of_file(file)


def sha256_of_file(file: File) -> str:
    """The sha256 of an open file in hex, read through one buffer."""
    import hashlib  # most runs hash nothing

    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    for offset in range(0, file.size, CHUNK):
        piece = buffer[: min(CHUNK, file.size - offset)]
        file.read_into(piece, offset)
        digest.update(piece)
    return digest.hexdigest()
