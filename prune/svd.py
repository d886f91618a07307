"""The exact singular values of an adapter's update by its factors: QR, QR, and the SVD of the small core between them.

The update of a LoRA is up·down, thousands wide and of rank 8 to 128. With up = Q₁R₁ and downᵀ = Q₂R₂ it is
Q₁(R₁R₂ᵀ)Q₂ᵀ, so that the SVD of the small matrix R₁R₂ᵀ is that of the update, and the product is never made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LIMIT = 1 << 25
"""Numbers that one matrix may hold: 256 MiB in float64, room for the largest convolution of SDXL."""
SIDE = 3072
"""Singular values of one matrix: the width of Flux. The time goes with their cube, and is half a minute here."""

TALL = 2
CONDITION = 1e4
"""The largest condition for which a QR by Gram matrices is taken: it is then right to 1e-12 of the largest value."""


class Unfit(Exception):
    """This module stays as it is; the text says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """The update itself."""

    matrix: Any


@dataclass(frozen=True, slots=True, eq=False)
class Factored:
    """left [rows, inner] · right [inner, columns]."""

    left: Any
    right: Any


@dataclass(frozen=True, slots=True, eq=False)
class Kron:
    """The Kronecker product of two updates."""

    one: "Dense | Factored"
    two: "Dense | Factored"


Update = Dense | Factored | Kron


@dataclass(frozen=True, slots=True, eq=False)
class Svd:
    """Singular values, all of them and descending, and on request the first vectors to either side."""

    values: Any
    left: Callable[[int], Any]
    """[rows, count]"""
    right: Callable[[int], Any]
    """[count, columns]"""


def shape_of(update: Update) -> tuple[int, int]:
    """Rows and columns."""
    match update:
        case Dense():
            rows, columns = update.matrix.shape
        case Factored():
            rows, columns = update.left.shape[0], update.right.shape[1]
        case Kron():
            (a, b), (c, d) = shape_of(update.one), shape_of(update.two)
            rows, columns = a * c, b * d
    return rows, columns


def check_size(*shape: int) -> None:
    """Raises Unfit, before anything is allocated, for a matrix too large to work on, or one without numbers."""
    count = 1
    for length in shape:
        count *= length
    if count > LIMIT:
        raise Unfit(f"a matrix of {' × '.join(f'{length:,}' for length in shape)} is too large")
    if count == 0:
        raise Unfit("it has no values")


def check_side(rows: int, columns: int) -> None:
    """Raises Unfit for a matrix whose SVD or QR would take minutes."""
    check_size(rows, columns)
    if min(rows, columns) > SIDE:
        raise Unfit(f"the singular values of a matrix of {rows:,} × {columns:,} would take minutes")


def decompose(update: Update) -> Svd:
    """The SVD of an update. Raises Unfit when it is too large or its numbers leave the range of float64."""
    import numpy

    try:
        with numpy.errstate(all="ignore"):
            svd = decomposed(update)
    except numpy.linalg.LinAlgError as error:
        raise Unfit("its singular values do not come out: its numbers are too large") from error
    if not numpy.isfinite(svd.values).all():
        raise Unfit("its singular values are not finite")
    return svd


def decomposed(update: Update) -> Svd:
    match update:
        case Dense():
            return of_matrix(update.matrix)
        case Factored():
            return of_factors(update.left, update.right)
        case Kron():
            return of_kron(decomposed(update.one), decomposed(update.two))


def of_matrix(matrix: Any) -> Svd:
    import numpy

    check_side(*matrix.shape)
    u, values, vt = numpy.linalg.svd(matrix, full_matrices=False)
    return Svd(values, lambda count: u[:, :count], lambda count: vt[:count])


def of_factors(left: Any, right: Any) -> Svd:
    import numpy

    rows, columns = shape_of(Factored(left, right))
    if left.shape[1] > min(rows, columns):
        check_side(rows, columns)
        return of_matrix(left @ right)
    check_side(*left.shape)
    check_side(*right.shape)
    q1, r1 = qr(left)
    q2, r2 = qr(right.T)
    u, values, vt = numpy.linalg.svd(r1 @ r2.T, full_matrices=False)
    return Svd(values, lambda count: q1 @ u[:, :count], lambda count: vt[:count] @ q2.T)


def qr(matrix: Any) -> tuple[Any, Any]:
    """QR of a tall matrix: by Cholesky of its Gram matrix, twice, which is products of matrices only.

    The second round makes the columns orthogonal to rounding; what is lost grows with the condition, so that a
    matrix of a large one, and one that is not tall, goes the slower way by reflections.
    Source: Yamamoto, Nakatsukasa, Yanagisawa and Fukaya, Roundoff error analysis of the CholeskyQR2 algorithm (2015).
    """
    import numpy

    rows, columns = matrix.shape
    gram = matrix.T @ matrix if rows >= TALL * columns else None
    if gram is None or not numpy.isfinite(gram).all():
        q, r = numpy.linalg.qr(matrix)
        return q, r
    spread = numpy.linalg.eigvalsh(gram)
    if not spread[0] > spread[-1] / CONDITION**2:
        q, r = numpy.linalg.qr(matrix)
        return q, r
    first = numpy.linalg.cholesky(gram)
    q = matrix @ numpy.linalg.inv(first).T
    second = numpy.linalg.cholesky(q.T @ q)
    return q @ numpy.linalg.inv(second).T, second.T @ first.T


def of_kron(one: Svd, two: Svd) -> Svd:
    """Its singular values are all products of one of each, and its vectors are the products of theirs."""
    import numpy

    check_size(len(one.values), len(two.values))
    products = numpy.multiply.outer(one.values, two.values).reshape(-1)
    order = numpy.argsort(-products, kind="stable")

    def pairs(count: int) -> tuple[Any, Any]:
        return numpy.divmod(order[:count], len(two.values))

    def left(count: int) -> Any:
        (i, j), a, b = pairs(count), one.left(len(one.values)), two.left(len(two.values))
        check_size(len(a), len(b), count)
        return numpy.einsum("ak,bk->abk", a[:, i], b[:, j]).reshape(-1, count)

    def right(count: int) -> Any:
        (i, j), a, b = pairs(count), one.right(len(one.values)), two.right(len(two.values))
        check_size(a.shape[1], b.shape[1], count)
        return numpy.einsum("ka,kb->kab", a[i], b[j]).reshape(count, -1)

    return Svd(products[order], left, right)


def norm_of_product(left: Any, right: Any) -> float:
    """The Frobenius norm of left·right without making it, by the two small Gram matrices."""
    import numpy

    with numpy.errstate(all="ignore"):
        return float(numpy.sqrt(numpy.maximum(((left.T @ left) * (right @ right.T)).sum(), 0.0)))
