"""How much arithmetic a file may ask for: in proportion to its bytes, so that a small one cannot take hours."""

from dataclasses import dataclass

from ckptool.prune.svd import Dense, Factored, Kron, Unfit, Update

FLOOR = 1 << 36
"""Multiplications that any file may take: some ten seconds here."""
PER_BYTE = 3000
"""And more for each byte: twice what singular values of full differences and of a LoRA of rank 1024 take."""
HANDLING = 32
"""Multiplications that take as long as making, and looking at, one entry of a product."""


@dataclass(slots=True, eq=False)
class Effort:
    """What is left of it for the modules that are still to come."""

    left: int

    @classmethod
    def of(cls, nbytes: int) -> "Effort":
        """For an adapter of `nbytes` bytes."""
        return cls(FLOOR + PER_BYTE * nbytes)

    def allows(self, work: int) -> bool:
        """Whether there is as much left, which is then spent."""
        if work > self.left:
            return False
        self.left -= work
        return True

    def spend_on(self, update: Update) -> None:
        """For the singular values of an update. Raises Unfit when too little is left."""
        if not self.allows(decomposing(update)):
            raise Unfit("the modules of this file take more arithmetic than a file of its size should")


def decomposing(update: Update) -> int:
    """Multiplications, about, that the singular values of an update take."""
    match update:
        case Dense():
            return of_matrix(*update.matrix.shape)
        case Factored():
            rows, inner, columns = *map(int, update.left.shape), int(update.right.shape[1])
            if inner > min(rows, columns):
                return of_matrix(rows, columns) + rows * inner * columns
            return 2 * (rows + columns) * inner**2 + of_matrix(inner, inner)
        case Kron():
            return decomposing(update.one) + decomposing(update.two)


def of_matrix(rows: int, columns: int) -> int:
    return int(4 * rows * columns * min(rows, columns))


def multiplying(rows: int, inner: int, columns: int) -> int:
    """Multiplications that making all entries of a product takes, and looking at each."""
    return rows * columns * (inner + HANDLING)
