"""Put a file into its place: whole or not at all, never over another one, its sidecar with it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ckptool.convert.crew import Advance
from ckptool.convert.gather import pieces
from ckptool.convert.layout import Layout, layout
from ckptool.convert.remote import Where
from ckptool.convert.sidecar import find_sidecar
from ckptool.convert.stated import stated_in, true_metadata
from ckptool.convert.writer import check_sources, fill, ignore, unpacked, write
from ckptool.errors import UsageError
from ckptool.identify.place import Placement, label
from ckptool.output import Output, unwritable, write_at
from ckptool.source import File, Record
from ckptool.tensor import Plan, Span, Tensor

COPY, HARD, SYMBOLIC, CONVERTED, THERE = "copied", "hard link", "symbolic link", "converted", "already there"
CHUNK = 1 << 20


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """The folder exists inside; what was made for it goes again when the work fails."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    created: list[Path] = []
    try:
        for path in reversed(missing):
            try:
                path.mkdir()
            except OSError as error:
                raise unwritable(path, error) from error
            created.append(path)
        yield
    except BaseException:
        for path in reversed(created):
            try:
                path.rmdir()
            except OSError:
                break  # somebody put something there
        raise


def put(source: Where, plan: Plan, placement: Placement, link: bool, advance: Advance) -> str:
    """Place the file and its sidecar, and say how.

    Raises UsageError when another file has the name, Unwritable when there is no room or permission.
    """
    target = placement.path
    there = is_there(source, plan, placement)
    sidecar, goal, _ = find_sidecar(source, target, False)
    with made(placement.folder), ExitStack() as stack:
        if sidecar is not None:  # its bytes are safe before the model appears, and its name comes after the model's
            output = stack.enter_context(Output(goal, len(sidecar), False))
            write_at(output.fd, sidecar, 0)
        if there:
            how = THERE
        elif placement.convert:
            how = convert(plan, placement, advance)
        else:
            how = link_in(source, target) if link and isinstance(source, Path) else copy_in(plan, target, advance)
    return how


def is_there(source: Where, plan: Plan, placement: Placement) -> bool:
    """What would be placed is in its place already. Raises UsageError when something else is."""
    there = os.path.lexists(placement.path)
    if there and not same(source, plan, placement):
        raise exists_already(placement.path)
    return there


def exists_already(target: Path) -> UsageError:
    return UsageError(
        f"{label(target)}: exists already, with other content", "nothing is overwritten: rename one of the two"
    )


def convert(plan: Plan, placement: Placement, advance: Advance) -> str:
    """Write the plan as `ckptool convert` does."""
    if placement.kind == "hypernetwork":
        from ckptool.convert.hypernetwork import write_pt

        write_pt(plan, placement.path, False, advance)
    else:
        write(plan, placement.path, False, advance)
    return CONVERTED


def copy_in(plan: Plan, target: Path, advance: Advance) -> str:
    """The file as it is, byte for byte."""
    (record,) = plan.sources
    whole = Tensor("file", "U8", (record.size,), Span(record, 0, record.size))
    with Output(target, record.size, False) as output:
        fill(output, Layout(b"", (whole,), (0,), record.size), advance)
        check_sources(plan)
    return COPY


def link_in(source: Path, target: Path) -> str:
    """A hard link where both are on one file system, else a symbolic one; of the file that a link leads to."""
    real = source.resolve()
    try:
        os.link(real, target)
    except FileExistsError:
        raise exists_already(target) from None
    except OSError:  # another file system, or one without hard links, or a file of somebody else
        try:
            os.symlink(real, target)
        except FileExistsError:
            raise exists_already(target) from None
        except OSError as error:
            raise unwritable(target, error) from error
        return SYMBOLIC
    return HARD


def same(source: Where, plan: Plan, placement: Placement) -> bool:
    """What is there already is what would be put there."""
    target = placement.path
    if not target.is_file():
        return False
    if not placement.convert:
        return (isinstance(source, Path) and os.path.samefile(source, target)) or equal_files(plan.sources[0], target)
    if placement.kind == "hypernetwork":
        return equal_hypernetwork(plan, target)
    return equal_plan(plan, target)


def equal_files(record: Record, target: Path) -> bool:
    with File.open(target) as file:
        if file.size != record.size:
            return False
        other = Record.whole(file)
        return all(
            record.read(at, size) == other.read(at, size)
            for at in range(0, record.size, CHUNK)
            for size in (min(CHUNK, record.size - at),)
        )


def equal_plan(plan: Plan, target: Path) -> bool:
    """The file is what `write` would write."""
    planned = layout(plan.tensors, plan.metadata)
    with File.open(target) as file, ExitStack() as stack:
        if file.size != planned.size:
            return False
        if stated_in(plan.metadata):  # hashes of the very bytes that are compared below
            planned = layout(plan.tensors, true_metadata(file.fileno(), planned, plan.metadata))
        other = Record.whole(file)
        if file.size != planned.size or other.read(0, len(planned.head)) != planned.head:
            return False
        tensors = unpacked(planned.tensors, target.parent, stack)
        return all(
            other.read(offset + at, len(piece)) == piece
            for tensor, offset in zip(tensors, planned.offsets, strict=True)
            for at, piece in pieces(tensor.data)
        )


def equal_hypernetwork(plan: Plan, target: Path) -> bool:
    """The file is what `write_pt` would write: small enough to be written once more, where it has no name."""
    from ckptool.convert.hypernetwork import write_pt

    try:
        with tempfile.TemporaryDirectory(prefix="ckptool-") as folder:
            again = Path(folder) / target.name
            write_pt(plan, again, False, ignore)
            with File.open(again) as file:
                return equal_files(Record.whole(file), target)
    except OSError as error:
        raise unwritable(Path(tempfile.gettempdir()), error) from error
