"""The report of a file without an output, whoever refuses it."""

from ckptool.errors import CkptoolError
from ckptool.report import Report, refusal_data
from ckptool.sanitize.job import Job
from ckptool.text import escape


def refused_report(job: Job, error: CkptoolError) -> Report:
    """Its message begins with the source as it was given, whatever the error is about."""
    shown = escape(job.shown, 1000)
    message = error.message if error.message.startswith(shown) else f"{shown}: {error.message}"
    own: Report = {"path": job.shown, "action": "refused", "verdict": "refused", "findings": [], "parity": None}
    return refusal_data(job.shown, message, error.hint) | own
