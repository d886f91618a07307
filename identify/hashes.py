"""The hashes under which people and sites know a model file, all in one reading of it.

AutoV1, AutoV2 and AutoV3 are the web UI's: of 64 KiB in the file, of all of it, and of the tensors behind the header of
a safetensors file. Source: AUTOMATIC1111/stable-diffusion-webui, modules/hashes.py and modules/sd_models.py.
"""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from zlib_ng import zlib_ng

from ckptool.source import Bytes, Distant, File, expect

CHUNK = 1 << 22
AUTOV1_START, AUTOV1_LENGTH = 0x100000, 0x10000
Advance = Callable[[int], object]


class Hash(Protocol):
    """What reads bytes in order."""

    def update(self, data: memoryview, /) -> object: ...


class Part:
    """The sha256 of a range of a file."""

    def __init__(self, start: int, stop: int) -> None:
        self.digest = hashlib.sha256()
        self.start, self.stop, self.at = start, stop, 0

    def update(self, data: memoryview) -> None:
        begin, end = max(self.start - self.at, 0), min(self.stop - self.at, len(data))
        self.at += len(data)
        if begin < end:
            self.digest.update(data[begin:end])


class Crc:
    """CRC-32 with the interface of a hash."""

    def __init__(self) -> None:
        self.value = 0

    def update(self, data: memoryview) -> None:
        self.value = zlib_ng.crc32(data, self.value)


def hashes_of(file: File | Distant, advance: Advance) -> dict[str, str | None]:
    """All hashes of a file; `autov3` is None when it is no safetensors file. Raises CkptoolError when it changes."""
    from blake3 import blake3

    start = data_start(file)
    whole, blake, crc = hashlib.sha256(), blake3(), Crc()
    old = Part(AUTOV1_START, AUTOV1_START + AUTOV1_LENGTH)
    tensors = Part(start, file.size) if start is not None else None
    read_once(file, [whole, blake, crc, old, *([tensors] if tensors else [])], advance)
    file.check_unchanged()
    return {
        "sha256": whole.hexdigest(),
        "autov1": old.digest.hexdigest()[:8],
        "autov2": whole.hexdigest()[:10],
        "autov3": tensors.digest.hexdigest()[:12] if tensors else None,
        "blake3": blake.hexdigest(),
        "crc32": f"{crc.value:08x}",
    }


def data_start(file: Bytes) -> int | None:
    """Where the tensors of a safetensors file begin, None of any other."""
    from ckptool.convert.sniff import sniff

    if sniff(file) != "safetensors":
        return None
    length = bytearray(8)
    file.read_into(memoryview(length), 0)
    return 8 + int.from_bytes(length, "little")


def read_once(file: Bytes, hashes: list[Hash], advance: Advance) -> None:
    """Hand every hash all bytes in order: each hash in a thread of its own, the next chunk read meanwhile."""
    buffers = [memoryview(bytearray(min(CHUNK, max(file.size, 1)))) for _ in range(2)]
    with ThreadPoolExecutor(min(len(hashes), (os.cpu_count() or 1) + 1)) as pool:
        running: list[Future[object]] = []
        expect(file, 0, file.size)
        for number, offset in enumerate(range(0, file.size, CHUNK)):
            piece = buffers[number % 2][: min(CHUNK, file.size - offset)]
            file.read_into(piece, offset)
            wait(running)
            running = [pool.submit(each.update, piece) for each in hashes]
            advance(len(piece))
        wait(running)


def wait(running: list[Future[object]]) -> None:
    for future in running:
        future.result()
