"""Panels of parameters: controls from the schema, refusals beside them, presets out of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets
import pytest

from spaceport_lab.errors import ParamsError
from spaceport_lab.params import TrainParams, load_preset, resolve
from spaceport_lab.params.describe import live_names
from spaceport_lab.widgets import presets
from spaceport_lab.widgets.panels import GROUPS, LOCKED, MORE, OF_THE_CELL, Panel, grouped, limits, panel
from spaceport_lab.workspace import StageRun

P = TrainParams()


def said(shown: Panel, name: str) -> str:
    return shown._texts[name].value


def test_every_parameter_has_its_place() -> None:
    groups = grouped(P)
    names = [name for names in groups.values() for name in names]
    assert len(names) == len(set(names))
    assert set(names) == set(TrainParams.model_fields) - set(OF_THE_CELL)
    assert list(groups) == [*GROUPS, MORE]


@pytest.mark.parametrize(
    ("name", "control"),
    [
        ("strategy", ipywidgets.Dropdown),
        ("absgrad", ipywidgets.Checkbox),
        ("refine_every", ipywidgets.IntText),
        ("sh_degree", ipywidgets.IntSlider),
        ("refine_stop", ipywidgets.FloatSlider),
        ("grow_grad2d", ipywidgets.FloatText),
        ("means_lr", ipywidgets.FloatLogSlider),
        ("init_from", ipywidgets.Text),
    ],
)
def test_the_control_follows_type_and_bounds(name: str, control: type) -> None:
    shown = panel(P, [name])
    assert type(shown.controls[name]) is control
    assert shown.controls[name].value == getattr(P, name)


def test_sliders_end_at_the_bounds() -> None:
    assert limits(TrainParams, "refine_stop") == (0, 1)
    assert limits(TrainParams, "init_opacity") == (0, 1)
    assert limits(TrainParams, "grow_grad2d") == (0, None)
    slider = panel(P, ["refine_stop"]).controls["refine_stop"]
    assert (slider.min, slider.max) == (0, 1)


def test_every_value_that_is_set_can_be_shown() -> None:
    """A learning rate far from its default, and every field of a preset that changes much."""
    p = resolve(["tuning-july-2025"], ["train.means_lr=10", "train.scales_lr=1e-9"]).params["train"]
    for names in grouped(p).values():
        shown = panel(p, names)
        for name in names:
            assert shown.controls[name].value == pytest.approx(getattr(p, name))
        assert shown.params == p


def test_unit_help_and_bounds_stand_beside_it() -> None:
    shown = panel(P, ["prune_opa"])
    assert "[opacity] more transparent Gaussians are pruned" in said(shown, "prune_opa")
    assert "≥ 0, &lt; 1" in said(shown, "prune_opa")


def test_a_change_is_sent_once_and_kept() -> None:
    sent: list[tuple[str, Any]] = []
    shown = panel(P, ["refine_every", "refine_stop"], lambda *change: sent.append(change))
    shown.controls["refine_every"].value = 40
    shown.controls["refine_stop"].value = 0.1 + 0.2  # sliders have such values
    assert sent == [("refine_every", 40), ("refine_stop", 0.3)]
    assert (shown.params.refine_every, shown.params.refine_stop) == (40, 0.3)


def test_a_bad_value_is_refused_beside_its_field() -> None:
    sent: list[tuple[str, Any]] = []
    shown = panel(P, ["refine_every"], lambda *change: sent.append(change))
    shown.controls["refine_every"].value = 0
    assert sent == []
    assert shown.params == P
    assert "0 cannot be used: input should be greater than or equal to 1" in said(shown, "refine_every")
    shown.controls["refine_every"].value = P.refine_every
    assert "cannot be used" not in said(shown, "refine_every")


def test_what_the_listener_refuses_is_not_kept() -> None:
    def refuse(name: str, value: Any) -> None:
        raise ParamsError("training has ended, <nothing> can change any more")

    shown = panel(P, ["refine_every"], refuse)
    shown.controls["refine_every"].value = 40
    assert shown.params.refine_every == P.refine_every
    assert "&lt;nothing&gt; can change" in said(shown, "refine_every")


def test_setting_sends_nothing() -> None:
    sent: list[tuple[str, Any]] = []
    shown = panel(P, ["grow_grad2d", "refine_every"], lambda *change: sent.append(change))
    shown.set(P.model_copy(update={"grow_grad2d": 3e-4}))
    assert shown.controls["grow_grad2d"].value == 3e-4
    assert shown.params.grow_grad2d == 3e-4
    assert sent == []


def test_while_training_runs_only_what_may_change_is_open() -> None:
    names = ["grow_grad2d", "seed", "sh_degree"]
    shown = panel(P, names)
    shown.lock(True)
    live = live_names(TrainParams)
    assert (
        [shown.controls[n].disabled for n in names] == [n not in live for n in names] == [False, True, True]
    )
    assert LOCKED in said(shown, "seed")
    assert LOCKED not in said(shown, "grow_grad2d")
    shown.lock(False)
    assert not any(shown.controls[n].disabled for n in names)


def test_an_unknown_parameter_is_named() -> None:
    with pytest.raises(ParamsError, match="refine_evry"):
        panel(P, ["refine_evry"])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageRun:
    monkeypatch.chdir(tmp_path)
    return StageRun(tmp_path / "site" / "runs" / "job", "train")


def test_a_preset_holds_what_differs_and_loads(run: StageRun) -> None:
    values = {
        "grow_grad2d": 1e-5, "strategy": "mcmc", "absgrad": True, "cap_max": 5, "init_from": "a: #b",
        "means_lr": 1.25e-7, "init_scale": 2.0,
    }  # fmt: skip
    p = TrainParams(run_dir="x", interactive=True, log_every=7, **values)
    path = presets.save_preset(run, p, "mine", "25.10 dB held out\nafter all")
    assert path == run.root / "params" / "mine.yaml"
    assert load_preset(str(path)) == {"train": values}
    resolved = resolve([str(path)]).params["train"]
    assert resolved == TrainParams(**values)
    text = path.read_text()
    assert "25.10 dB held out after all" in text
    assert "grow_grad2d: 1.0e-05  # instead of 0.0" in text
    assert all("#" in line for line in text.splitlines() if line.startswith("  "))


def test_a_preset_joins_those_of_the_folder(run: StageRun, tmp_path: Path) -> None:
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "other.yaml").write_text("train: {}\n")
    (tmp_path / "notebooks").mkdir()
    path = presets.save_preset(run, TrainParams(grow_to=9), "mine")
    assert path == tmp_path / "params" / "mine.yaml"


@pytest.mark.parametrize("name", ["", "../up", "a b", ".hidden", "x" * 41, "demo"])
def test_names_that_cannot_be_used(name: str, run: StageRun) -> None:
    with pytest.raises(ParamsError):
        presets.save_preset(run, TrainParams(grow_to=9), name)
    assert not list(run.root.rglob("*.yaml"))


def test_a_preset_never_replaces_another(run: StageRun) -> None:
    presets.save_preset(run, TrainParams(grow_to=9), "mine")
    with pytest.raises(ParamsError, match="already"):
        presets.save_preset(run, TrainParams(grow_to=10), "mine")


def test_defaults_are_no_preset(run: StageRun) -> None:
    with pytest.raises(ParamsError, match="default"):
        presets.save_preset(run, TrainParams(interactive=True), "mine")
