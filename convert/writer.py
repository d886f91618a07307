"""Write a plan as safetensors: each byte flows once, from the source to the output."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ckptool.convert.crew import Advance, work
from ckptool.convert.inflate import unpack
from ckptool.convert.jobs import jobs_of
from ckptool.convert.layout import Layout, layout
from ckptool.convert.shards import Shards
from ckptool.convert.stated import stated_in, true_metadata
from ckptool.convert.sums import base_of
from ckptool.output import Output, write_at
from ckptool.source import Distant, File, Record
from ckptool.tensor import Cast, Data, Inline, Mapped, Plan, Tensor


def ignore(_: int) -> None:
    """Nobody watches the progress."""


def no_check() -> None:
    """Nothing has to hold but what the writer checks itself."""


def write(
    plan: Plan, path: Path, force: bool = False, advance: Advance = ignore, check: Callable[[], None] = no_check
) -> Plan:
    """Write `plan` to `path` and return it as written; `advance` is told of tensor bytes as they are.

    Hashes that the metadata state are those of the written bytes, whatever they were before.
    `check` is asked when all bytes are written and before the file gets its name: what it raises leaves no file.
    Raises Malformed when a record's CRC is wrong, Unwritable when there is no room, and leaves nothing behind.
    """
    made = layout(plan.tensors, plan.metadata)
    with Output(path, made.size, force) as output:
        fill(output, made, advance)
        check_sources(plan)
        check()
        return with_true_hashes(output, made, plan)


def with_true_hashes(output: Output, made: Layout, plan: Plan) -> Plan:
    """The plan whose metadata state the hashes of what was written, as the head of the file now does."""
    if not stated_in(plan.metadata):
        return plan
    metadata = true_metadata(output.fd, made, plan.metadata)
    write_at(output.fd, layout(plan.tensors, metadata).head, 0)
    return replace(plan, metadata=metadata)


def write_shards(
    shards: Shards, force: bool = False, advance: Advance = ignore, check: Callable[[], None] = no_check
) -> int:
    """The same for several files: none gets its name before all are whole, and the index gets its name last."""
    layouts = [layout(plan.tensors, plan.metadata) for _, plan in shards.files]
    total = sum(made.size for made in layouts)
    with ExitStack() as stack:
        index = stack.enter_context(Output(shards.index_path, total, force))
        write_at(index.fd, shards.index, 0)
        for (path, plan), made in zip(shards.files, layouts, strict=True):
            fill(stack.enter_context(Output(path, made.size, force)), made, advance)
            check_sources(plan)
        check()
    return total + len(shards.index)


def fill(output: Output, made: Layout, advance: Advance) -> None:
    """Write the head and every tensor, the sums of the source's records checked on the way."""
    with ExitStack() as stack:
        tensors = unpacked(made.tensors, output.path.parent, stack)
        write_at(output.fd, made.head, 0)
        work(jobs_of(tensors, made.offsets), output.fd, advance, stopping(tensors))


def stopping(tensors: list[Tensor]) -> Callable[[], None] | None:
    """What ends reading from other machines; None where there is nothing to end."""
    bases = [base_of(tensor.data) for tensor in tensors]
    sources = dict.fromkeys(base.record.source for base in bases if not isinstance(base, Inline))
    distant = [source for source in sources if source.fileno() is None and isinstance(source, Distant)]

    def stop() -> None:
        for source in distant:
            source.stop()

    return stop if distant else None


def check_sources(plan: Plan) -> None:
    for record in plan.sources:
        if isinstance(record.source, File | Distant):
            record.source.check_unchanged()


def unpacked(tensors: tuple[Tensor, ...], folder: Path, stack: ExitStack) -> list[Tensor]:
    """Tensors of deflated records moved onto inflated ones, each record inflated once."""
    done: dict[tuple[int, int], Record] = {}
    result: list[Tensor] = []
    for tensor in tensors:
        base = base_of(tensor.data)
        if isinstance(base, Inline) or base.record.packed is None:
            result.append(tensor)
            continue
        record = base.record
        key = (id(record.source), record.offset)
        if key not in done:
            done[key] = Record.whole(stack.enter_context(unpack(record, folder)))
        result.append(replace(tensor, data=moved(tensor.data, done[key])))
    return result


def moved(data: Data, record: Record) -> Data:
    """The same data in another record."""
    if isinstance(data, Mapped | Cast):
        return replace(data, data=moved(data.data, record))
    return data if isinstance(data, Inline) else replace(data, record=record)
