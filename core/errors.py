"""The one family of errors: each says what is wrong, what to do, and which exit code it means."""

from typing import ClassVar

EXIT_OK = 0
EXIT_FINDINGS = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_NO_PARITY = 4
EXIT_INTERRUPTED = 130


class CkptoolError(Exception):
    """Base of every error that ckptool raises on purpose.

    `message` says what is wrong and where (file, entry, tensor, byte offset); `hint` says what to do.
    """

    exit_code: ClassVar[int] = EXIT_REFUSED

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(CkptoolError):
    """The command line asks for something that cannot be done: nothing was read or written."""

    exit_code = EXIT_USAGE


class Refused(CkptoolError):
    """The input is not converted: unreadable, ambiguous, unsupported, or dependent on something unknown."""


class NotACheckpoint(Refused):
    """The file is something else altogether (a page, a pointer, another archive)."""


class Truncated(Refused):
    """The file ends before it should."""


class Malformed(Refused):
    """The file breaks the rules of its own format."""


class OverBudget(Refused):
    """A limit on work or memory would be exceeded; checked before the work is done."""


class Unwritable(Refused):
    """The output cannot be written (no space, no permission)."""


class Unreachable(Refused):
    """The machine that has the input does not give it: it was asked often enough, or gives something else."""


class NotShown(CkptoolError):
    """What was asked for would move the model further than was allowed: nothing is written."""

    exit_code = EXIT_NO_PARITY
