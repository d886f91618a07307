"""What `prune` and the casts need of the reference step: its extra, its progress, and what an error allows."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec

from ckptool.convert.crew import Advance
from ckptool.errors import NotShown, UsageError
from ckptool.progress import bar
from ckptool.reached import Reached, Step
from ckptool.tensor import Plan
from ckptool.verify.command import EXTRA, INSTALL
from ckptool.verify.denoise import Settings
from ckptool.verify.search import HIGHEST, LOWEST, Reference, check_error, keep_wide, largest_threshold, within

__all__ = ["check_error", "check_extra", "threshold_within", "wide_within"]
SETTINGS = Settings()


def check_extra(option: str) -> None:
    """Raises UsageError where what runs the reference step is not installed."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise UsageError(f"{option} runs the denoise step, which needs {', '.join(missing)}", INSTALL)


def threshold_within(
    plan: Plan, step: Callable[[float], Step], *, threshold: float | None, max_error: float, hidden: bool
) -> tuple[float, Reached]:
    """The threshold, or the largest one where none is given, and how far it moves the step.

    Raises NotShown when it moves it by more than `max_error`, or no threshold moves it by less.
    """
    check_error(max_error)
    if same(plan, step(threshold or HIGHEST)(plan)):
        return threshold or 0.0, reached(max_error, {})
    if threshold is None:
        found = largest_threshold(plan, step, max_error, SETTINGS, partial(watch, "thresholds tried", hidden))
        if not found.threshold:
            raise NotShown(
                f"even a threshold of {LOWEST:g} moves the denoise step by more than {max_error:g}",
                "allow more with --max-error, or leave --threshold out",
            )
        return found.threshold, reached(max_error, found.errors)
    errors = Reference(plan, SETTINGS).errors(step(threshold)(plan))
    if not within(errors, max_error):
        worst = max(errors, key=lambda name: errors[name])
        raise NotShown(
            f"a threshold of {threshold:g} moves the denoise step of {worst} by {errors[worst]:.3g},"
            f" more than {max_error:g}",
            "--threshold auto finds the largest one that does not",
        )
    return threshold, reached(max_error, errors)


def same(plan: Plan, other: Plan) -> bool:
    """Whether nothing of a plan is changed: there is nothing that a threshold would apply to."""
    return len(plan.tensors) == len(other.tensors) and all(
        one.data is two.data for one, two in zip(plan.tensors, other.tensors, strict=True)
    )


def wide_within(
    plan: Plan, step: Callable[[frozenset[str]], Step], *, max_error: float, hidden: bool
) -> tuple[dict[str, float], Reached]:
    """The tensors that a cast has to leave as they are, each with what it would cost, and how far the rest goes."""
    found = keep_wide(plan, step, max_error, SETTINGS, partial(watch, "casts tried", hidden))
    return found.costs, reached(max_error, found.errors)


def reached(max_error: float, errors: dict[str, float]) -> Reached:
    return Reached(max_error, errors, {"steps": SETTINGS.steps, "size": SETTINGS.size, "seed": SETTINGS.seed})


def watch(label: str, hidden: bool, total: int) -> AbstractContextManager[Advance]:
    return bar(total, label, hidden, unit="")
