"""The update of an adapter's module as a matrix [rows, columns × kernel], in the factors that its file gives."""

from math import isfinite
from typing import Any

from ckptool.convert.inflate import check_crc
from ckptool.convert.numbers import MOST, values
from ckptool.convert.sums import base_of
from ckptool.identify.adapters import AdapterModule, product, update_shape
from ckptool.prune.svd import Dense, Factored, Kron, Unfit, Update, check_size
from ckptool.tensor import Inline, Tensor

FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
LINEAR = frozenset({"lora", "locon", "dora", "loha", "lokr", "full"})
"""Algorithms whose update is a matrix that is added to the weight."""
PLAIN = frozenset({"lora", "locon", "dora"})
"""Those among them that are up·down already."""
MAX_DIMENSIONS = 5
"""Rows, columns and a kernel of three dimensions."""


class Reader:
    """Reads the parts of modules. The CRC of each record is checked once: a reduced module is not copied later."""

    def __init__(self) -> None:
        self._checked: set[int] = set()

    def update(self, module: AdapterModule) -> Update:
        """The update without its scale. Raises Unfit with the reason when it has none that can be worked with."""
        import numpy

        # What overflows is found by its singular values or its entries.
        with numpy.errstate(all="ignore"):
            return self.unscaled(module)

    def unscaled(self, module: AdapterModule) -> Update:
        parts = module.parts
        if module.algorithm not in LINEAR:
            raise Unfit(f"{module.algorithm} has no up and down")
        if "diff" not in parts and module.algorithm == "full":
            raise Unfit("it changes a bias only")
        if update_shape(parts) is None:
            raise Unfit("the shapes of its parts do not fit each other")
        match module.algorithm:
            case "full":
                return Dense(self.flat(parts["diff"]))
            case "loha":
                return hadamard(
                    self.pair(parts, "hada_w1_a", "hada_w1_b", "hada_t1"),
                    self.pair(parts, "hada_w2_a", "hada_w2_b", "hada_t2"),
                )
            case "lokr":
                return Kron(self.half(parts, "lokr_w1"), self.half(parts, "lokr_w2"))
            case _:
                down = self.whole(parts["down"])
                if "mid" in parts:
                    down = tucker(self.whole(parts["mid"]), down.reshape(down.shape[:2]))
                return Factored(self.flat(parts["up"]), down.reshape(len(down), -1))

    def half(self, parts: dict[str, Tensor], role: str) -> Dense | Factored:
        """One side of a LoKr, which may be given whole or as a product."""
        if role in parts:
            return Dense(self.flat(parts[role]))
        return self.pair(parts, f"{role}_a", f"{role}_b", role.replace("_w", "_t"))

    def pair(self, parts: dict[str, Tensor], a: str, b: str, core: str) -> Factored:
        """a·b; with a Tucker core the factors are [i, rows] and [j, columns], and the core joins i with j."""
        shapes = parts[a].shape, parts[b].shape, parts[core].shape if core in parts else None
        if product(*shapes) is None:
            raise Unfit("the shapes of its parts do not fit each other")
        left, right = self.whole(parts[a]), self.whole(parts[b])
        if core not in parts:
            return Factored(left, right)
        folded = tucker(self.whole(parts[core]), right)
        return Factored(left.T, folded.reshape(len(folded), -1))

    def flat(self, tensor: Tensor) -> Any:
        whole = self.whole(tensor)
        return whole.reshape(len(whole), -1)

    def whole(self, tensor: Tensor) -> Any:
        """A matrix or the weight of a convolution."""
        if not 2 <= len(tensor.shape) <= MAX_DIMENSIONS:
            raise Unfit(f"a tensor of {len(tensor.shape)} dimensions is no matrix and no convolution")
        return self.numbers(tensor)

    def largest(self, tensor: Tensor) -> float:
        """The largest absolute value of a tensor."""
        return float(abs(self.numbers(tensor)).max())

    def numbers(self, tensor: Tensor) -> Any:
        """A tensor in float64, all its values finite."""
        import numpy

        if tensor.dtype not in FLOATS:
            raise Unfit(f"{tensor.dtype} is not computed with")
        check_size(*tensor.shape)
        if tensor.nbytes > MOST:
            raise Unfit("it is too large to hold")
        self.check(tensor)
        array = values(tensor)
        if not numpy.isfinite(array).all():
            raise Unfit("it holds NaN or infinity")
        return array.astype(numpy.float64)

    def check(self, tensor: Tensor) -> None:
        base = base_of(tensor.data)
        if isinstance(base, Inline) or base.record.packed is not None or id(base.record) in self._checked:
            return
        check_crc(base.record)
        self._checked.add(id(base.record))


def tucker(core: Any, right: Any) -> Any:
    """Folds a Tucker core [i, j, kernel] into the factor behind it [j, columns]: [i, columns, kernel], exactly."""
    import numpy

    check_size(core.shape[0], right.shape[1], *core.shape[2:])
    return numpy.moveaxis(numpy.tensordot(core, right, axes=(1, 0)), -1, 1)


def hadamard(one: Factored, two: Factored) -> Update:
    """The elementwise product of two products: by all pairs of columns and rows, or made where that is smaller."""
    import numpy

    rows, columns = one.left.shape[0], one.right.shape[1]
    inner = one.left.shape[1] * two.left.shape[1]
    if inner >= min(rows, columns):
        check_size(rows, columns)
        return Dense((one.left @ one.right) * (two.left @ two.right))
    check_size(rows, inner)
    check_size(inner, columns)
    left = numpy.einsum("rp,rq->rpq", one.left, two.left).reshape(rows, inner)
    right = numpy.einsum("pc,qc->pqc", one.right, two.right).reshape(inner, columns)
    return Factored(left, right)


def scale_of(module: AdapterModule, without_alpha: float = 1.0) -> float:
    """alpha / rank. What has no rank, or no alpha, has 1 (or what the file's PEFT settings say).

    Raises Unfit for an alpha that loaders would not agree about.
    """
    rank = module.rank
    if rank is None:
        return 1.0
    if "alpha" not in module.parts:
        return without_alpha
    alpha = module.alpha
    if alpha is None or not isfinite(alpha) or alpha == 0 or rank == 0:
        # Trainers take 0 for "as the rank", user interfaces for a factor of nothing.
        raise Unfit("its alpha is zero" if alpha == 0 else "its alpha is no number")
    if alpha / rank == 0:
        raise Unfit("its alpha is zero to float64, once divided by the rank")
    return alpha / rank
