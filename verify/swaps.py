"""What a tensor that is not what it should be holds instead: the values of another tensor, as a swap leaves them."""

from collections.abc import Iterable

from ckptool.tensor import Tensor
from ckptool.verify.compare import Comparison, compare
from ckptool.verify.difference import Change
from ckptool.verify.reach import Reach, Spool
from ckptool.verify.rounding import codes_of, numbers_of, rounded

HEAD = 512
"""Elements that are looked at first; only tensors that agree in these are compared as a whole."""
Key = tuple[tuple[int, ...], str, bytes]


def held_instead(
    wrong: Iterable[Tensor], originals: Iterable[Tensor], spool: Spool, threshold: float = 0.0
) -> dict[str, str]:
    """Name of a wrong tensor -> the tensor of the original whose values it holds, up to a threshold made zero."""
    suspects = {tensor.name: tensor for tensor in wrong if tensor.nbytes}
    wanted = {(tensor.shape, tensor.dtype) for tensor in suspects.values()}
    shapes = {shape for shape, _ in wanted}
    by_head: dict[Key, list[Reach]] = {}
    for tensor in originals:
        if tensor.shape in shapes and tensor.nbytes:
            reach = spool.reach(tensor)
            for dtype in sorted(dtype for shape, dtype in wanted if shape == tensor.shape):
                if head := head_of(reach, dtype, threshold):
                    by_head.setdefault((tensor.shape, dtype, head), []).append(reach)
    found: dict[str, str] = {}
    for name, tensor in suspects.items():
        reach = spool.reach(tensor)
        alike = by_head.get((tensor.shape, tensor.dtype, head_of(reach, tensor.dtype, threshold)), [])
        # Tensors that begin alike by the dozen (zeros, ones) say nothing.
        comparisons = [Comparison(other, reach) for other in alike if other.tensor.name != name][:4]
        compare(comparisons)
        for comparison in comparisons:
            total = comparison.seen.total()
            if not (total.wrong or total.signs or total.clamped) and total.largest_zeroed <= threshold:
                found.setdefault(name, comparison.original.tensor.name)
    return found


def head_of(reach: Reach, dtype: str, threshold: float) -> bytes:
    """The first elements as a dtype holds them, those up to the threshold zero.

    Nothing where they are all the same, or cannot be cast.
    """
    import numpy

    count = min(HEAD, reach.span.length // reach.width)
    buffer = memoryview(bytearray(count * reach.width))
    reach.read(0, buffer)
    reach.change(buffer)
    codes = codes_of(buffer, reach.tensor.dtype)
    change = Change(reach.tensor.dtype, dtype)
    if change.before != dtype and not change.as_numbers:
        return b""
    if change.as_numbers:
        with numpy.errstate(all="ignore"):
            numbers = numbers_of(codes, change.before)
            codes = codes.copy() if change.before == dtype else rounded(numbers, dtype)
            codes[numpy.abs(numbers) <= threshold] = 0
    return b"" if (codes == codes[0]).all() else bytes(codes.tobytes())
