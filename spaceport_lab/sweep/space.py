"""The search space of a sweep: YAML over names of the schema, checked against it before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_origin

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import ValidationError

from spaceport_lab.errors import ParamsError
from spaceport_lab.params import TrainParams
from spaceport_lab.params.resolve import check_name

FIXED: dict[str, Any] = {"target_psnr": 0.0, "min_steps": 0, "timelapse": False, "tensorboard": False}
"""In every trial: none stops early, for all are measured at the same time."""

SHARED = (*FIXED, "patience", "eval_every", "test_every", "masks", "seed")
"""What trials have in common, so that their figures mean the same: stopping, views, what of them counts."""

DIGITS = 4
"""Significant digits of numbers that are tried: a preset is to be read."""

_SPAN_KEYS = {"low", "high", "log", "step"}


@dataclass(frozen=True)
class Space:
    """What may vary: `train.grow_ratio` → Optuna's distribution; `spec` is the YAML it was read from."""

    distributions: Mapping[str, BaseDistribution]
    spec: Mapping[str, Any]

    def tidied(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Suggested values as they are trained with: floats with DIGITS digits, within their span."""
        return {name: _tidy(value, self.distributions[name]) for name, value in values.items()}

    def holds(self, p: TrainParams) -> dict[str, Any] | None:
        """The values `p` has for all names of the space; None where one of them lies outside."""
        values = {name: getattr(p, name.partition(".")[2]) for name in self.distributions}
        inside = all(_inside(value, self.distributions[name]) for name, value in values.items())
        return values if inside else None


def read_space(path: Path) -> Space:
    """Read and check a search space.

    Args:
        path: YAML with lines `train.NAME: {low: 1, high: 2}`, with `log: true` or `step: 0.5` where wanted,
            or `train.NAME: [choice, choice]`.

    Raises:
        ParamsError: no such file, not YAML, a name that does not exist (the nearest is given), one that
            cannot vary, or values outside the schema's bounds; all of them are named at once.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ParamsError("the search space cannot be read", got=path, hint="give a .yaml file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not YAML", got=str(error).splitlines()[0]) from error
    return parse_space(content, str(path))


def parse_space(content: Any, where: str) -> Space:
    """As `read_space`, from what the YAML holds; `where` is named in errors."""
    if not isinstance(content, dict) or not content:
        raise ParamsError(
            f"{where} is no search space",
            got=type(content).__name__ if content else "nothing",
            expected="lines such as train.grow_ratio: {low: 0.5, high: 2, log: true}",
            hint="see docs/sweep-demo.yaml",
        )
    distributions: dict[str, BaseDistribution] = {}
    problems: list[str] = []
    for name, spec in content.items():
        stage, dot, key = str(name).partition(".")
        if not dot:
            raise ParamsError(
                f"{where}: {name!r} is no parameter", expected="STAGE.NAME, such as train.grow_ratio"
            )
        check_name(stage, key, where=where)
        try:
            distributions[str(name)] = _distribution(stage, key, spec)
        except (ValueError, TypeError) as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise ParamsError(
            f"{where} cannot be searched",
            got="\n            ".join(problems),
            hint="spaceport-lab params show train lists every parameter with its bounds",
        )
    return Space(distributions, content)


def _distribution(stage: str, key: str, spec: Any) -> BaseDistribution:
    """Raises ValueError with what is wrong."""
    fields = TrainParams.model_fields
    if stage != "train":
        raise ValueError("only parameters of train can vary: trials share everything before it")
    if key in SHARED or not (fields[key].json_schema_extra or {}).get("key", True):
        raise ValueError("is the same in all trials, so that they can be compared")
    if isinstance(spec, list):
        return _choices(key, spec)
    if not isinstance(spec, dict) or not {"low", "high"} <= set(spec) <= _SPAN_KEYS:
        raise ValueError(f"is {spec!r}, not [choice, …] nor {{low, high}} with log or step")
    kind = fields[key].annotation
    if kind is bool or kind is str or get_origin(kind) is Literal:
        raise ValueError("has no order: give a list of choices")
    low, high, log, step = spec["low"], spec["high"], spec.get("log", False), spec.get("step")
    for value in (low, high, *([] if step is None else [step])):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{value!r} is no number" + _exponent(value))
    if not isinstance(log, bool):
        raise ValueError(f"log is {log!r}, not true or false")
    if not low < high:
        raise ValueError(f"low {low:g} is not below high {high:g}")
    if log and (step is not None or low <= 0):
        raise ValueError("log goes neither with a step nor with a low of 0 or less")
    if step is not None and not 0 < step <= high - low:
        raise ValueError(f"a step of {step:g} does not fit between {low:g} and {high:g}")
    for value in (low, high):
        _check(key, value)
    if kind is int:
        if any(value is not None and value != int(value) for value in (low, high, step)):
            raise ValueError("takes whole numbers")
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=log, step=step)


def _choices(key: str, choices: list[Any]) -> BaseDistribution:
    if len(choices) < 2:
        raise ValueError("needs two choices at least; one alone belongs into a preset or --set")
    if any(choices.count(choice) > 1 for choice in choices):
        raise ValueError("names a choice twice")
    for choice in choices:
        _check(key, choice)
    return CategoricalDistribution(choices)


def _check(key: str, value: Any) -> None:
    try:
        TrainParams(**{key: value})
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise ValueError(
            f"{value!r} cannot be used: {said[:1].lower()}{said[1:]}{_exponent(value)}"
        ) from error


def _exponent(value: Any) -> str:
    """YAML 1.1 reads 1e-4 as a word: a number with an exponent needs a point."""
    try:
        float(value)
    except (TypeError, ValueError):
        return ""
    return (
        f"; YAML takes {value} for a word, write {float(value)!r} with a point"
        if isinstance(value, str)
        else ""
    )


def _tidy(value: Any, distribution: BaseDistribution) -> Any:
    if not isinstance(distribution, FloatDistribution):
        return value
    short = float(f"{value:.{DIGITS}g}") if distribution.step is None else round(float(value), 12)
    return min(max(short, distribution.low), distribution.high)


def _inside(value: Any, distribution: BaseDistribution) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if not distribution.low <= value <= distribution.high:
        return False
    if distribution.step is None:
        return _tidy(value, distribution) == value
    steps = (value - distribution.low) / distribution.step
    return abs(steps - round(steps)) < 1e-9
