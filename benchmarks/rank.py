"""The singular values of a LoRA's update by the small core and by the whole product: `python -m benchmarks.rank`."""

import sys
from time import perf_counter

import numpy

from ckptool.prune.svd import Factored, decompose

ROUNDS = 3


def main(rows: int = 5120, columns: int = 1280, rank: int = 128) -> None:
    generator = numpy.random.default_rng(0)
    up = generator.standard_normal((rows, rank)) * 0.03
    down = generator.standard_normal((rank, columns)) * 0.03
    times: dict[str, list[float]] = {"core": [], "product": []}
    for _ in range(ROUNDS):
        start = perf_counter()
        core = decompose(Factored(up, down)).values
        times["core"].append(perf_counter() - start)
        start = perf_counter()
        whole = numpy.linalg.svd(up @ down, full_matrices=False)[1][:rank]
        times["product"].append(perf_counter() - start)
    fast, slow = min(times["core"]), min(times["product"])
    print(f"{rows} × {columns}, rank {rank}, float64, best of {ROUNDS}")
    print(f"  small core     {fast * 1000:8.1f} ms")
    print(f"  whole product  {slow * 1000:8.1f} ms  ({slow / fast:.0f} times the core)")
    print(f"  largest relative difference of a singular value: {(abs(core - whole) / whole).max():.1e}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
