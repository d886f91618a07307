"""The singular values by the small core are those of the whole product."""

import numpy
import pytest

from ckptool.prune.svd import (
    LIMIT,
    SIDE,
    Dense,
    Factored,
    Kron,
    Unfit,
    Update,
    check_size,
    decompose,
    norm_of_product,
    qr,
)

GENERATOR = numpy.random.default_rng(0)


def normal(*shape: int) -> numpy.ndarray:
    return GENERATOR.standard_normal(shape)


def conditioned(rows: int, columns: int, condition: float) -> numpy.ndarray:
    left, right = numpy.linalg.qr(normal(rows, columns))[0], numpy.linalg.qr(normal(columns, columns))[0]
    return left * numpy.geomspace(1, 1 / condition, columns) @ right


def product(update: Update) -> numpy.ndarray:
    match update:
        case Dense():
            return update.matrix
        case Factored():
            return update.left @ update.right
        case Kron():
            return numpy.kron(product(update.one), product(update.two))


UPDATES = {
    "tall": Factored(normal(640, 16), normal(16, 96)),
    "wide": Factored(normal(96, 16), normal(16, 640)),
    "of rank one": Factored(normal(96, 1), normal(1, 64)),
    "of more rank than rows": Factored(normal(4, 8), normal(8, 64)),
    "of more rank than rows and columns": Factored(normal(4, 40), normal(40, 6)),
    "a full matrix": Dense(normal(48, 80)),
    "a Kronecker product": Kron(Dense(normal(4, 6)), Dense(normal(20, 12))),
    "a Kronecker product of factors": Kron(
        Factored(normal(6, 2), normal(2, 4)), Factored(normal(30, 3), normal(3, 20))
    ),
    "of dependent columns": Factored(normal(96, 4) @ normal(4, 16), normal(16, 64)),
    "ill conditioned": Factored(conditioned(200, 24, 1e7), conditioned(150, 24, 1e5).T),
}


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES.keys())
def test_singular_values_are_those_of_the_product(update: Update) -> None:
    svd = decompose(update)
    expected = numpy.linalg.svd(product(update), compute_uv=False)[: len(svd.values)]
    assert numpy.allclose(svd.values, expected, rtol=1e-6, atol=1e-13 * expected[0])
    assert (numpy.diff(svd.values) <= 0).all()


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES.keys())
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_vectors_give_the_best_approximation(update: Update, share: float) -> None:
    svd, whole = decompose(update), product(update)
    count = max(int(len(svd.values) * share), 1)
    made = svd.left(count) * svd.values[:count] @ svd.right(count)
    u, values, vt = numpy.linalg.svd(whole, full_matrices=False)
    assert numpy.allclose(made, u[:, :count] * values[:count] @ vt[:count], atol=1e-11 * values[0])


def test_the_figure_of_5120_by_1280_at_rank_128() -> None:
    update = Factored(normal(5120, 128), normal(128, 1280))
    expected = numpy.sqrt(numpy.linalg.eigvalsh(product(update).T @ product(update))[::-1][:128])
    assert numpy.allclose(decompose(update).values, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("condition", [1, 1e3, 9e3, 2e4, 1e8, 1e15])
def test_qr_is_orthogonal_and_exact_at_any_condition(condition: float) -> None:
    matrix = conditioned(300, 20, condition)
    q, r = qr(matrix)
    assert numpy.allclose(q.T @ q, numpy.eye(20), atol=1e-14)
    assert numpy.allclose(q @ r, matrix, atol=1e-14)


def test_qr_of_nothing_but_zeros() -> None:
    q, r = qr(numpy.zeros((30, 3)))
    assert numpy.allclose(q.T @ q, numpy.eye(3))
    assert not r.any()


def test_numbers_beyond_float64_are_unfit_and_not_infinite() -> None:
    with pytest.raises(Unfit):
        decompose(Factored(numpy.full((9, 2), 1e300), numpy.full((2, 9), 1e300)))
    with pytest.raises(Unfit):
        decompose(Kron(Dense(numpy.full((3, 3), 1e300)), Dense(numpy.full((3, 3), 1e300))))


def test_a_size_is_refused_before_it_is_allocated() -> None:
    check_size(LIMIT, 1)
    with pytest.raises(Unfit, match="too large"):
        check_size(10**9, 10**9)
    with pytest.raises(Unfit, match="no values"):
        check_size(3, 0)
    wide = numpy.broadcast_to(numpy.float64(1), (1 << 13, 1 << 13))  # of eight bytes
    with pytest.raises(Unfit, match="too large"):
        decompose(Dense(wide))


@pytest.mark.parametrize(
    "update",
    [
        Dense(numpy.broadcast_to(1.0, (SIDE + 1, SIDE + 1))),
        Factored(numpy.broadcast_to(1.0, (SIDE + 1, SIDE + 1)), numpy.broadcast_to(1.0, (SIDE + 1, SIDE + 1))),
        Factored(numpy.broadcast_to(1.0, (SIDE + 1, SIDE + 5)), numpy.broadcast_to(1.0, (SIDE + 5, SIDE + 1))),
        Kron(Dense(numpy.broadcast_to(1.0, (SIDE + 1, SIDE + 1))), Dense(normal(2, 2))),
    ],
    ids=["dense", "factors", "wide factors", "Kronecker product"],
)
def test_what_would_take_minutes_is_not_begun(update: Update) -> None:
    with pytest.raises(Unfit, match="minutes"):
        decompose(update)


def test_the_norm_of_a_product_needs_no_product() -> None:
    left, right = normal(50, 6), normal(6, 70)
    assert numpy.isclose(norm_of_product(left, right), numpy.linalg.norm(left @ right), rtol=1e-12)
