"""Hashes of whole files."""

from pathlib import Path

CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """The sha256 of a file in hex, read through one buffer."""
    import hashlib  # most runs hash nothing

    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()
