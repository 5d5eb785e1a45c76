"""What a batch is: a YAML file of scenes, read, judged and given job names before anything runs."""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
import yaml

from spaceport_lab import runcard
from spaceport_lab.errors import InputError, ParamsError
from spaceport_lab.jobs.failures import from_exception
from spaceport_lab.jobs.model import Ask, Failure, make_ask
from spaceport_lab.naming import scene_of, slug
from spaceport_lab.params import resolve
from spaceport_lab.pipeline import make_request

_CONFIG = pydantic.ConfigDict(frozen=True, extra="forbid")


class Defaults(pydantic.BaseModel):
    """What holds for every scene that says nothing else."""

    model_config = _CONFIG

    presets: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    steps: str = "full"
    output: str = ""


class Entry(pydantic.BaseModel):
    """One scene, or with a pattern several, as the file has it."""

    model_config = _CONFIG

    source: str = pydantic.Field(min_length=1)
    name: str = ""
    presets: tuple[str, ...] | None = None
    overrides: tuple[str, ...] = ()
    steps: str | None = None


class Plan(pydantic.BaseModel):
    """The file."""

    model_config = _CONFIG

    defaults: Defaults = Defaults()
    scenes: tuple[Entry, ...] = pydantic.Field(min_length=1)

    @pydantic.field_validator("scenes", mode="before")
    @classmethod
    def _paths_are_scenes(cls, value: Any) -> Any:
        if not isinstance(value, list):
            raise ValueError("must be a list of paths, or of lines with source, name, presets, overrides")
        return [{"source": one} if isinstance(one, str) else one for one in value]


@dataclass(frozen=True)
class Scene:
    """One scene of a batch, ready to run.

    Attributes:
        name: unique within the batch.
        ask: what is run; its name is the job's, made of the batch's and the scene's.
        run_dir: where it is run; None where that cannot be known, see `trouble`.
        asked: the request as the run card keeps it.
        backend: train.backend.
        trouble: why it cannot be run; None where it can.
    """

    name: str
    ask: Ask
    run_dir: Path | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    backend: str = "auto"
    trouble: Failure | None = None

    @property
    def job(self) -> str:
        """The job's name, and its run folder's."""
        return self.ask.name

    def is_done(self) -> bool:
        """Whether its run card says that this very request has succeeded, and was sent where asked for."""
        card = runcard.read(self.run_dir) if self.run_dir else None
        if card is None or card.get("status") != "succeeded" or card.get("request") != dict(self.asked):
            return False
        if not self.ask.output:
            return True
        return any(
            one.get("state") == "succeeded" and one.get("output") == self.ask.output
            for one in card.get("attempts", ())
        )


@dataclass(frozen=True)
class Batch:
    """Scenes to run.

    Attributes:
        name: of the batch.
        file: the YAML it was read from.
        data: where scenes lie.
        scenes: in the order of the file.
    """

    name: str
    file: Path
    data: Path
    scenes: tuple[Scene, ...]

    @property
    def folder(self) -> Path:
        """data/.batches/NAME: batch.json and the logs."""
        return self.data / ".batches" / self.name


def make_batch(path: Path, data: Path, name: str = "", output: str = "") -> Batch:
    """Read a file of scenes and judge all of it; nothing is written.

    A scene that is missing, or no scene, is kept with its `trouble`: it must not cost the others.

    Args:
        path: YAML, see docs/batch-example.yaml. Paths in it are relative to its folder.
        data: where scenes lie.
        name: of the batch; empty: the file's.
        output: s3:// prefix, over the file's.

    Raises:
        ParamsError: the file cannot be read, has unknown keys (the nearest is given) or wrong values, a
            parameter of some scene cannot be used, or two scenes have one name.
        InputError: a pattern matches nothing.
    """
    path = Path(path).expanduser().absolute()
    plan = read_plan(path)
    batch = slug(name or path.stem)
    data = Path(data).expanduser().absolute()
    scenes = [
        _scene(entry, source, plan.defaults, batch, data, path, output)
        for entry in plan.scenes
        for source in _sources(entry, path)
    ]
    _refuse_twins(scenes)
    return Batch(batch, path, data, tuple(scenes))


def read_plan(path: Path) -> Plan:
    """Read and check the file alone.

    Raises:
        ParamsError: it cannot be read, is not YAML, or does not hold what it should; all faults are named.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParamsError(
            "the list of scenes cannot be read", got=path, hint="see docs/batch-example.yaml"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not YAML", got=str(error).splitlines()[0]) from error
    if not isinstance(content, dict):
        raise ParamsError(
            f"{path} is no list of scenes",
            got=type(content).__name__ if content else "nothing",
            expected="scenes: with a list under it, and maybe defaults:",
            hint="see docs/batch-example.yaml",
        )
    try:
        return Plan.model_validate(content)
    except pydantic.ValidationError as error:
        faults = [_fault(one) for one in error.errors()]
        raise ParamsError(
            f"{path} cannot be used", got="; ".join(faults[:8]), hint="see docs/batch-example.yaml"
        ) from error


def _fault(found: Any) -> str:
    """`defaults.preset is unknown, did you mean presets?`"""
    where = found["loc"]
    place = ".".join(str(part) for part in where) or "the file"
    if found["type"] != "extra_forbidden":
        return f"{place}: {found['msg'].removeprefix('Value error, ')}"
    kind = {"defaults": Defaults, "scenes": Entry}.get(str(where[0]) if len(where) > 1 else "", Plan)
    names = list(kind.model_fields)
    near = difflib.get_close_matches(str(where[-1]), names, n=1, cutoff=0.5)
    return f"{place} is unknown, " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}")


def _sources(entry: Entry, path: Path) -> list[str]:
    """The sources an entry stands for: itself, or what its pattern matches, sorted."""
    if "://" in entry.source:
        return [entry.source]
    place = os.path.normpath(path.parent / Path(entry.source).expanduser())
    if not glob.has_magic(place) or Path(place).exists():
        return [place]
    matches = Path("/").glob(place.lstrip("/"))
    found = sorted(str(match) for match in matches if not match.name.startswith("."))
    if not found:
        raise InputError(
            "a pattern matches nothing", got=entry.source, expected=f"scenes below {path.parent}"
        )
    if entry.name and len(found) > 1:
        raise ParamsError(
            f"{len(found)} scenes cannot all be called {entry.name!r}",
            got=entry.source,
            hint="leave name out of lines with a pattern",
        )
    return found


def _scene(
    entry: Entry, source: str, defaults: Defaults, batch: str, data: Path, path: Path, output: str
) -> Scene:
    presets = defaults.presets if entry.presets is None else entry.presets
    overrides = (*defaults.overrides, *entry.overrides)
    steps = entry.steps or defaults.steps
    name = slug(entry.name) if entry.name else scene_of(source)
    ask = make_ask(
        source=source,
        name=f"{batch}-{name}",
        scene=entry.name,
        steps=steps,
        presets=tuple(str(path.parent / p) if p.endswith((".yaml", ".yml")) else p for p in presets),
        overrides=overrides,
        output=output or defaults.output,
    )
    try:
        resolve(ask.presets, ask.overrides)
        request = make_request(source, steps, data, ask.scene)
        resolved = resolve(ask.presets, ask.overrides, request.fixed)
    except InputError as error:
        return Scene(name, ask, trouble=from_exception(error)[0])
    except ParamsError as error:
        raise ParamsError(
            f"scene {name}: {error.what}", got=error.got, expected=error.expected, hint=error.hint
        ) from error
    asked = {
        "steps": steps,
        "source": request.fixed or str(request.adopt),
        "presets": list(ask.presets),
        "overrides": list(ask.overrides),
    }
    trains = "train" in request.stages
    backend = str(resolved.params["train"].model_dump()["backend"]) if trains else "cpu"
    return Scene(name, ask, request.scene_dir / "runs" / ask.name, asked, backend)


def _refuse_twins(scenes: list[Scene]) -> None:
    sources: dict[str, list[str]] = {}
    for scene in scenes:
        sources.setdefault(scene.name, []).append(scene.ask.source)
    twins = {name: found for name, found in sources.items() if len(found) > 1}
    if twins:
        raise ParamsError(
            f"two scenes of one name: {', '.join(twins)}",
            got="; ".join(", ".join(found) for found in twins.values()),
            expected="names that differ in their first 20 characters",
            hint="give each a name: {source: …, name: …}",
        )
