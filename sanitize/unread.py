"""The report of a file that no process looked at."""

from ckptool.errors import CkptoolError, Unreachable
from ckptool.report import Report, refusal_data
from ckptool.sanitize.job import Job
from ckptool.sanitize.lock import clear
from ckptool.text import escape


def unread(job: Job, error: CkptoolError) -> Report:
    """It is refused, and what an earlier run made of it goes, unless its machine only does not answer now."""
    if not isinstance(error, Unreachable):
        clear(job)
    shown = escape(job.shown, 1000)
    message = error.message if error.message.startswith(shown) else f"{shown}: {error.message}"
    own: Report = {"path": job.shown, "action": "refused", "verdict": "refused", "findings": [], "parity": None}
    return refusal_data(job.shown, message, error.hint) | own
