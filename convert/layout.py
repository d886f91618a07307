"""Where each tensor goes in a safetensors file: the order, the header and the offsets of a conventional writer.

Source: https://github.com/huggingface/safetensors, `prepare` in safetensors/src/tensor.rs.
"""

import json
from dataclasses import dataclass
from json.encoder import encode_basestring

from ckptool.errors import Refused
from ckptool.tensor import BITS, Tensor

MAX_HEADER = 100_000_000
RANK = {dtype: rank for rank, dtype in enumerate(BITS)}


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The head of the file (length and header), the tensors in order, and the offset of each in the file."""

    head: bytes
    tensors: tuple[Tensor, ...]
    offsets: tuple[int, ...]
    size: int


def layout(tensors: tuple[Tensor, ...], metadata: dict[str, str]) -> Layout:
    """Widest dtype first, then by name; metadata sorted by key, so that the same input gives the same bytes."""
    ordered = tuple(sorted(tensors, key=lambda tensor: (-RANK[tensor.dtype], tensor.name.encode())))
    entries: list[str] = []
    if metadata:
        entries.append(f'"__metadata__":{compact(dict(sorted(metadata.items())))}')
    begins: list[int] = []
    position = 0
    for tensor in ordered:
        begins.append(position)
        position += tensor.nbytes
        shape = ",".join(map(str, tensor.shape))
        entries.append(
            f'{encode_basestring(tensor.name)}:{{"dtype":"{tensor.dtype}","shape":[{shape}],"data_offsets":[{begins[-1]},{position}]}}'
        )
    header = ("{" + ",".join(entries) + "}").encode()
    header += b" " * (-len(header) % 8)
    if len(header) > MAX_HEADER:
        raise Refused(
            f"the output's header would take {len(header):,} bytes; safetensors allows {MAX_HEADER:,}",
            "write shards: --max-shard-size",
        )
    head = len(header).to_bytes(8, "little") + header
    return Layout(head, ordered, tuple(len(head) + begin for begin in begins), len(head) + position)


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
