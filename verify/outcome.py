"""The report of `verify`: both levels together, and whether they show parity."""

from collections.abc import Mapping
from math import isfinite, isnan
from typing import TYPE_CHECKING, Any

from ckptool.report import SCHEMA_VERSION, Report
from ckptool.tensor import Plan
from ckptool.verify.explanation import Explanation
from ckptool.verify.probe import HALF_MAX
from ckptool.verify.tolerances import tolerance

if TYPE_CHECKING:
    from ckptool.verify.denoise import ComponentResult

DIFFERENT = 0.5
"""Share of unexplained tensors from which on two files are called different models."""


def report_of(
    paths: tuple[str, str],
    plans: tuple[Plan, Plan],
    explanation: Explanation,
    results: "Mapping[str, ComponentResult]",
    settings: Report,
) -> Report:
    """Everything that was found, as plain data; `settings` are those of the run, to repeat it."""
    max_error = settings["max_error"]
    denoise = {
        name: component_data(result, tolerance(explanation, name, max_error)) for name, result in results.items()
    }
    problems = [*weights_beyond(explanation, max_error)] if not results else []
    parity = explanation.parity and not problems and all(item["within"] for item in denoise.values())
    return {
        "schema_version": SCHEMA_VERSION,
        "path": paths[1],
        "original": paths[0],
        "candidate": paths[1],
        "parity": parity,
        "verdict": "parity" if parity else "no parity",
        "different_models": different(explanation),
        "other_naming": explanation.other_naming,
        "tensors": explanation.data,
        "denoise": denoise,
        "overflow": overflow(results),
        "problems": problems,
        "metadata": metadata_differences(*plans),
        "settings": settings,
    }


def different(explanation: Explanation) -> bool:
    """So much is unexplained that no single tensor is worth a word."""
    every = sum(int(part["tensors"]) for part in explanation.components.values())
    return not explanation.other_naming and len(explanation.unexplained) > max(DIFFERENT * every, 1)


def weights_beyond(explanation: Explanation, max_error: float | None) -> list[str]:
    """Without a denoise step, --max-error is held against the weights themselves."""
    if max_error is None:
        return []
    found = [
        f"{component}: what became zero is {zeroed['relative_error']:.3g} of its weights, more than --max-error"
        for component, zeroed in explanation.zeroed.items()
        if zeroed["relative_error"] > max_error
    ]
    worst = max((item["relative_error"] for item in explanation.rank.values()), default=0.0)
    return found + ([f"a module's update is off by {worst:.3g}, more than --max-error"] if worst > max_error else [])


def component_data(result: "ComponentResult", allowed: float) -> Report:
    """A component that could not be built in the original is told, and says nothing about parity."""
    skipped = result.skipped is not None and isnan(result.relative_l2)
    figures = ("max_abs", "relative_l2", "psnr", "cosine")
    return {
        **{name: json_number(getattr(result, name)) for name in figures},
        "steps": [
            {"name": step.name} | {name: json_number(getattr(step.figures, name)) for name in figures}
            for step in result.steps
        ],
        "tolerance": allowed,
        "within": skipped or result.relative_l2 <= allowed,
        "parted": result.parted,
        "blocks": [{"name": name, "relative_l2": json_number(error)} for name, error in result.blocks],
        "skipped": result.skipped,
        "settings": dict(result.settings),
    }


def json_number(number: float) -> float | str | None:
    """JSON has no infinity and no NaN: those are a text and null. An infinite PSNR means that nothing differs."""
    return None if isnan(number) else number if isfinite(number) else str(number)


def overflow(results: "Mapping[str, ComponentResult]") -> list[dict[str, Any]]:
    """Layers whose activations half precision has no number for, the largest first."""
    return [
        {"component": name, "layer": layer, "max_activation": json_number(value)}
        for name, result in results.items()
        for layer, value in sorted(result.activations, key=lambda item: -item[1])
        if value > HALF_MAX
    ]


def metadata_differences(original: Plan, candidate: Plan) -> dict[str, list[str | None]]:
    """Key -> what it said and says; null where it is not there."""
    before, after = original.metadata, candidate.metadata
    keys = sorted(before.keys() | after.keys())
    return {key: [cut(before.get(key)), cut(after.get(key))] for key in keys if before.get(key) != after.get(key)}


def cut(value: str | None, limit: int = 1000) -> str | None:
    return value if value is None or len(value) <= limit else value[:limit] + "…"
