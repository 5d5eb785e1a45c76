"""Schemas, presets, overrides, and the notebooks' parameters cells."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path
from typing import Literal, get_args, get_origin

import nbformat
import papermill
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from spaceport_lab.errors import ParamsError
from spaceport_lab.params import SCHEMAS, STAGES, load_preset, preset_names, resolve, validate_stage
from spaceport_lab.params.cells import TOOLS, cell_source, drifted, notebook_path, parameters_cell, sync
from spaceport_lab.params.describe import bounds, changes_in_words


@pytest.mark.parametrize("stage", STAGES)
def test_every_field_can_stand_in_a_papermill_cell(stage: str) -> None:
    for name, field in SCHEMAS[stage].model_fields.items():
        literal = get_origin(field.annotation) is Literal
        assert literal or field.annotation in (bool, int, float, str), name
        assert not literal or all(isinstance(a, str) for a in get_args(field.annotation)), name
        assert field.description, name
        assert field.description.startswith("["), name
        assert "=" not in field.description, name
        assert "\n" not in field.description, name
    assert max(map(len, cell_source(stage).splitlines())) <= 110, "a formatter would break the line"


@pytest.mark.parametrize("stage", STAGES)
def test_the_cell_holds_the_defaults(stage: str) -> None:
    namespace: dict[str, object] = {}
    exec(cell_source(stage), namespace)
    defaults = SCHEMAS[stage]().model_dump()
    assert {name: namespace[name] for name in defaults} == defaults


@pytest.mark.parametrize("stage", STAGES)
def test_papermill_sees_every_parameter(stage: str) -> None:
    seen = papermill.inspect_notebook(str(notebook_path(stage)))
    defaults = SCHEMAS[stage]().model_dump()
    assert set(seen) == set(defaults)
    assert {n: ast.literal_eval(seen[n]["default"]) for n in defaults} == defaults
    assert all(seen[n]["help"] for n in defaults)


def test_notebooks_agree_with_the_schemas() -> None:
    assert drifted() == []


def test_sync_mends_a_drifted_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in (*STAGES, *TOOLS):
        (tmp_path / notebook_path(stage).name).write_bytes(notebook_path(stage).read_bytes())
    monkeypatch.setattr("spaceport_lab.params.cells.notebooks_dir", lambda: tmp_path)
    path = notebook_path("train")
    notebook = nbformat.read(path, as_version=4)
    parameters_cell(notebook, path).source += "\nextra = 1"
    nbformat.write(notebook, path)
    assert drifted() == ["train"]
    assert sync() == ["train"]
    assert drifted() == []
    assert sync() == []


def test_the_presets_of_the_plan_are_there() -> None:
    assert {"demo", "fast", "production", "tuning-july-2025"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_presets_hold_only_differences_and_say_why(name: str) -> None:
    resolve([name])
    defaults = {stage: SCHEMAS[stage]().model_dump() for stage in STAGES}
    preset = load_preset(name)
    for stage, entries in preset.items():
        for key, value in entries.items():
            assert type(defaults[stage][key])(value) != defaults[stage][key], f"{stage}.{key}"
    from spaceport_lab.resources import presets_dir

    lines = (presets_dir() / f"{name}.yaml").read_text().splitlines()
    for line in lines:
        if line.startswith("  "):
            assert "#" in line, f"{name}: say why in {line.strip()!r}"


def test_the_tuning_plan_of_july_2025() -> None:
    train = resolve(["tuning-july-2025"]).params["train"]
    assert train.target_psnr == 60
    assert train.grow_grad2d == 1e-5
    assert train.percent_dense == 0.05
    assert train.coarse_to_fine != "none"
    assert train.init_points == 30_000


def test_later_wins_and_the_origin_is_kept(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("train: {max_steps: 11, means_lr: 1e-3}\n")
    resolved = resolve(["demo", str(mine)], ["train.seed=9", "train.seed=10"], {"train": {"run_dir": "x"}})
    train, origins = resolved.params["train"], resolved.origins["train"]
    assert (train.max_steps, train.means_lr, train.seed, train.run_dir) == (11, 1e-3, 10, "x")
    assert (origins["max_steps"], origins["seed"], origins["run_dir"]) == ("preset mine", "--set", "run")
    assert origins["sh0_lr"] == "default"
    assert resolved.card()["train"]["seed"] == {"value": 10, "origin": "--set"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_step=3", r"did you mean train\.max_steps\?"),
        ("trian.max_steps=3", r"did you mean train\?"),
        ("train.max_steps", r"expected: STAGE\.NAME=VALUE"),
        ("max_steps=3", r"expected: STAGE\.NAME=VALUE"),
        ("ingest.max_steps=3", r"did you mean train\.max_steps\?"),
        ("train.max_steps=many", r"train\.max_steps is 'many' \(from --set\)"),
        ("train.max_steps=0", r"greater than or equal to 1"),
        ("train.ssim_lambda=1.5", r"less than or equal to 1"),
        ("train.means_lr=nan", r"train\.means_lr"),
        ("train.backend=tpu", r"'auto', 'cpu' or 'cuda'"),
        ("sfm.georeference=perhaps", r"valid boolean"),
    ],
)
def test_bad_overrides_are_named(override: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        resolve([], [override])


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ParamsError, match=r"(?s)2 parameters.*max_steps.*sh_degree"):
        resolve([], ["train.max_steps=0", "train.sh_degree=9"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: 3", "two levels"),
        ("- a", "two levels"),
        ("train: {max_stepz: 3}", r"did you mean train\.max_steps"),
        ("a: [", "is not YAML"),
        ("train: {max_steps: [1]}", r"train\.max_steps is \[1\]"),
    ],
)
def test_bad_presets_are_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ParamsError, match=message):
        resolve([str(path)])


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ParamsError, match=r"did you mean production\?"):
        resolve(["prodction"])


def test_scientific_notation_from_yaml_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("train: {grow_grad2d: 1e-5}")
    assert isinstance(yaml.safe_load(path.read_text())["train"]["grow_grad2d"], str), "PyYAML's known trap"
    assert resolve([str(path)]).params["train"].grow_grad2d == 1e-5


@given(st.text(max_size=40))
def test_no_override_text_breaks_anything_but_by_params_error(text: str) -> None:
    with contextlib.suppress(ParamsError):
        resolve([], [text])


def test_params_are_frozen_and_closed() -> None:
    train = resolve().params["train"]
    with pytest.raises(ValueError, match="frozen"):
        train.max_steps = 3
    with pytest.raises(ParamsError, match="max_steps"):
        validate_stage("train", {"max_steps": "x"})


def test_bounds_in_words() -> None:
    assert bounds(SCHEMAS["train"], "sh_degree") == "≥ 0, ≤ 3"
    assert bounds(SCHEMAS["train"], "backend") == "auto | cpu | cuda"
    assert bounds(SCHEMAS["train"], "interactive") == ""


def test_changes_in_words() -> None:
    changes = [
        {"step": 20, "values": {"grow_grad2d": 0.002, "patience": 0}},
        {"step": 1999, "values": {"seed": 1}},
    ]
    assert changes_in_words(changes) == [
        "from step 21: grow_grad2d 0.002, patience 0",
        "from step 2,000: seed 1",
    ]
