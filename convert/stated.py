"""Hashes of itself that a file states in its metadata, made true: UIs trust them over the file.

Sources: kohya-ss/sd-scripts, `precalculate_safetensors_hashes` (sshs_model_hash, sshs_legacy_hash); Stability-AI's
ModelSpec 1.0.1 (modelspec.hash_sha256).
"""

import os
import re
from collections.abc import Iterator

from ckptool.convert.layout import Layout, layout

LEGACY_AT, LEGACY_SIZE = 1 << 20, 1 << 16
CHUNK = 1 << 20
# Each stated hash and the form of its value; a value of any other form is somebody's own text and stays.
FORMS: dict[str, str] = {
    "sshs_model_hash": r"[0-9a-f]{64}",
    "sshs_legacy_hash": r"[0-9a-f]{8}",
    "modelspec.hash_sha256": r"(0x)?[0-9a-fA-F]{64}",
}


def stated_in(metadata: dict[str, str]) -> list[str]:
    """The keys of `metadata` that state a hash of the tensors' bytes."""
    return [key for key, form in FORMS.items() if re.fullmatch(form, metadata.get(key, ""))]


def true_metadata(fd: int, made: Layout, metadata: dict[str, str]) -> dict[str, str]:
    """`metadata` with the hashes of what was written to `fd`, each as long as the one that stood there."""
    import hashlib  # few files state hashes

    keys = stated_in(metadata)
    whole = hashlib.sha256()
    if set(keys) != {"sshs_legacy_hash"}:
        for piece in read(fd, len(made.head), made.size):
            whole.update(piece)
    found = {"sshs_model_hash": whole.hexdigest(), "sshs_legacy_hash": legacy(fd, made, metadata)}
    prefix = "0x" if metadata.get("modelspec.hash_sha256", "").startswith("0x") else ""
    found["modelspec.hash_sha256"] = prefix + whole.hexdigest()
    return metadata | {key: found[key] for key in keys}


def legacy(fd: int, made: Layout, metadata: dict[str, str]) -> str:
    """kohya's short hash: of 64 KiB of the file that would hold the metadata of the training alone."""
    import hashlib

    head = layout(made.tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")}).head
    digest = hashlib.sha256(head[LEGACY_AT : LEGACY_AT + LEGACY_SIZE])
    begin = len(made.head) + max(LEGACY_AT - len(head), 0)
    end = len(made.head) + max(LEGACY_AT + LEGACY_SIZE - len(head), 0)
    for piece in read(fd, begin, min(end, made.size)):
        digest.update(piece)
    return digest.hexdigest()[:8]


def read(fd: int, begin: int, end: int) -> Iterator[bytes]:
    """The bytes of our own output, which is whole."""
    while begin < end:
        piece = os.pread(fd, min(CHUNK, end - begin), begin)
        begin += len(piece)
        yield piece
