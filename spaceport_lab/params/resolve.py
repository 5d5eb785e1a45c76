"""From presets and overrides to validated parameters, each with where its value came from.

Precedence: schema defaults < presets from left to right < overrides < what the pipeline itself sets.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from spaceport_lab.errors import ParamsError
from spaceport_lab.params.base import StageParams
from spaceport_lab.params.schemas import SCHEMAS
from spaceport_lab.resources import presets_dir


@dataclass(frozen=True)
class Resolved:
    """The parameters of every stage and the origin of every value.

    Attributes:
        params: stage → validated, frozen parameters.
        origins: stage → name → `default`, `preset demo`, `--set`, or `run`.
    """

    params: Mapping[str, StageParams]
    origins: Mapping[str, Mapping[str, str]]

    def card(self) -> dict[str, dict[str, dict[str, Any]]]:
        """As the run card keeps it: stage → name → {value, origin}."""
        return {
            stage: {
                name: {"value": value, "origin": self.origins[stage][name]}
                for name, value in params.model_dump().items()
            }
            for stage, params in self.params.items()
        }


def preset_names() -> list[str]:
    """Names of the presets that ship with the package, sorted."""
    return sorted(path.stem for path in presets_dir().glob("*.yaml"))


def load_preset(name: str) -> dict[str, dict[str, Any]]:
    """Read a preset by name, or by path when it ends in .yaml or .yml.

    Raises:
        ParamsError: there is no such preset (the nearest name is given), or it is not stage → name → value.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else presets_dir() / f"{name}.yaml"
    if not path.is_file():
        raise ParamsError(
            f"there is no preset {name!r}",
            expected=f"one of {', '.join(preset_names())}, or the path of a .yaml file",
            hint=_nearest(name, preset_names()),
        )
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"preset {path} is not YAML", got=str(error).splitlines()[0]) from error
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise ParamsError(
            f"preset {path} has the wrong shape",
            expected="two levels, a stage and under it its parameters",
            hint="see params/demo.yaml",
        )
    for stage, values in content.items():
        for key in values:
            check_name(str(stage), str(key), where=f"preset {path.stem}")
    return content


def parse_override(text: str) -> tuple[str, str, str]:
    """`train.max_steps=3000` → ("train", "max_steps", "3000").

    Raises:
        ParamsError: not of that form, or no such stage or parameter.
    """
    name, equals, value = text.partition("=")
    stage, dot, key = name.strip().partition(".")
    if not equals or not dot or not key:
        raise ParamsError(
            f"cannot read the override {text!r}",
            expected="STAGE.NAME=VALUE",
            hint="for example --set train.max_steps=3000",
        )
    check_name(stage, key, where="--set")
    return stage, key, value.strip()


def check_name(stage: str, key: str, where: str) -> None:
    """Refuse a stage or parameter that does not exist, with the nearest that does.

    Raises:
        ParamsError: always when there is no such name.
    """
    if stage not in SCHEMAS:
        raise ParamsError(
            f"{where}: there is no stage {stage!r}",
            expected=f"one of {', '.join(SCHEMAS)}",
            hint=_nearest(stage, SCHEMAS),
        )
    names = SCHEMAS[stage].model_fields
    if key not in names:
        elsewhere = [f"{other}.{key}" for other in SCHEMAS if key in SCHEMAS[other].model_fields]
        raise ParamsError(
            f"{where}: stage {stage} has no parameter {key!r}",
            hint=f"did you mean {elsewhere[0]}?" if elsewhere else _nearest(key, names, f"{stage}."),
        )


def resolve(
    presets: Sequence[str] = (),
    overrides: Iterable[str] = (),
    fixed: Mapping[str, Mapping[str, Any]] | None = None,
) -> Resolved:
    """Resolve and validate the parameters of all stages at once.

    Args:
        presets: names or paths, later ones win.
        overrides: `STAGE.NAME=VALUE` texts, later ones win.
        fixed: stage → name → value that the pipeline itself sets, over everything else.

    Raises:
        ParamsError: anything unknown, of the wrong type or out of range; all of them are named at once.
    """
    values: dict[str, dict[str, Any]] = {stage: {} for stage in SCHEMAS}
    origins: dict[str, dict[str, str]] = {
        stage: dict.fromkeys(schema.model_fields, "default") for stage, schema in SCHEMAS.items()
    }

    def put(stage: str, key: str, value: Any, origin: str) -> None:
        values[stage][key] = value
        origins[stage][key] = origin

    for preset in presets:
        for stage, entries in load_preset(preset).items():
            for key, value in entries.items():
                put(stage, key, value, f"preset {Path(preset).stem}")
    for override in overrides:
        put(*parse_override(override), "--set")
    for stage, entries in (fixed or {}).items():
        for key, value in entries.items():
            put(stage, key, value, "run")
    problems: list[str] = []
    params: dict[str, StageParams] = {}
    for stage, schema in SCHEMAS.items():
        try:
            params[stage] = schema(**values[stage])
        except ValidationError as error:
            problems += _explain(stage, origins[stage], error)
    if problems:
        count = len(problems)
        raise ParamsError(
            "a parameter cannot be used" if count == 1 else f"{count} parameters cannot be used",
            got="\n            ".join(problems),
            hint="spaceport-lab params show lists every parameter with its bounds",
        )
    return Resolved(params, origins)


def validate_stage(stage: str, values: Mapping[str, Any]) -> StageParams:
    """Validate the parameters of one stage, as a notebook holds them.

    Raises:
        ParamsError: a value is of the wrong type or out of range.
    """
    schema = SCHEMAS[stage]
    try:
        return schema(**values)
    except ValidationError as error:
        origins = dict.fromkeys(schema.model_fields, "the notebook")
        raise ParamsError(
            f"the parameters cell of {stage} cannot be used", got="; ".join(_explain(stage, origins, error))
        ) from error


def _explain(stage: str, origins: Mapping[str, str], error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        name = str(problem["loc"][0]) if problem["loc"] else "?"
        origin = origins.get(name, "?")
        message = problem["msg"][:1].lower() + problem["msg"][1:]
        lines.append(f"{stage}.{name} is {problem['input']!r} (from {origin}): {message}")
    return lines


def _nearest(word: str, candidates: Iterable[str], prefix: str = "") -> str:
    matches = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.4)
    return f"did you mean {prefix}{matches[0]}?" if matches else "spaceport-lab params show lists them all"
