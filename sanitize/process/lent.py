"""What is lent of a source on another machine: the files of its own folder, each opened once."""

import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from ckptool.address import NO_NAMES
from ckptool.convert.folders import MAX_SHARDS, is_index
from ckptool.convert.remote import Place, Stated, open_at
from ckptool.convert.remote_web import stated_of
from ckptool.errors import CkptoolError, OverBudget, Refused, Truncated
from ckptool.sanitize.process.spool import Spool


class Lent:
    """Context of one source. Used by several threads at once."""

    def __init__(self, place: Place, folder: Path) -> None:
        """`folder` takes what is kept while the source is read."""
        self.place = place
        self.folder = folder
        self._stack = ExitStack()
        self._opened: dict[str, Spool] = {}
        self._failed: dict[str, CkptoolError] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "Lent":
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._stack.close()

    def stop(self) -> None:
        """End what is being read, in whatever thread."""
        for spool in list(self._opened.values()):
            spool.stop()

    @property
    def asked(self) -> int:
        """Bytes that the other machine was asked for."""
        return sum(spool.asked for spool in list(self._opened.values()))

    @property
    def size(self) -> int:
        """Bytes of the source; of an index, of all that lies beside it. Raises as `Store.open` does."""
        if is_index(self.place):
            return sum(stated.size for stated in (self.beside() or {}).values())
        return self.file(self.place.path).size

    def beside(self) -> dict[str, Stated] | None:
        """The files in the source's folder; None where nobody can list them."""
        files = self.place.store.files()
        return None if files is None else {path: stated for path, stated in files.items() if self.is_beside(path)}

    def is_beside(self, path: str) -> bool:
        return Place(self.place.store, path).parent.path == self.place.parent.path

    def stated(self, path: str) -> Stated:
        if self.place.store.files() is None:
            return stated_of(self.file(path).source)
        self.check(path)
        return self.place.store.stated(path)

    def file(self, path: str) -> Spool:
        """Raises as `Store.open` does; what failed once is not tried again."""
        with self._lock:
            if path in self._failed:
                raise self._failed[path]
            if path not in self._opened:
                self.check(path)
                try:
                    source = open_at(Place(self.place.store, path))
                    self._stack.push(source.__exit__)
                    self._opened[path] = self._stack.enter_context(Spool(source, self.folder))
                except CkptoolError as error:
                    self._failed[path] = error
                    raise
            return self._opened[path]

    def check(self, path: str) -> None:
        """Raises Refused for what no model of this source can need: the process that asks may be anybody's by now."""
        name = path.rpartition("/")[2]
        if not self.is_beside(path) or name in NO_NAMES or "\0" in name:
            raise Refused("what lies outside the folder of a source is not lent", "please report it")
        if len(self._opened) + len(self._failed) > MAX_SHARDS:
            raise OverBudget(f"more than {MAX_SHARDS:,} files are opened for one model", "give one model at a time")

    def range_of(self, path: str, offset: int, length: int) -> Spool:
        """The file, of which this range is to be read."""
        spool = self.file(path)
        if offset < 0 or length <= 0 or offset + length > spool.size:
            raise Truncated("it ends before what is asked for", "the file is incomplete: upload it again")
        return spool

    def failed(self, path: str, error: CkptoolError) -> None:
        """Its bytes do not come any more: whoever asks again hears why at once."""
        with self._lock:
            self._failed[path] = error
