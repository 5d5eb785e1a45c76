"""A scene's studies in Optuna's own pictures."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from matplotlib import pyplot
from matplotlib.figure import Figure

from spaceport_lab.errors import SpaceportError
from spaceport_lab.plots.style import style
from spaceport_lab.sweep.study import Sweep, load, open_study


def studies(scene_dir: Path) -> list[Sweep]:
    """The sweeps of a scene, by name."""
    found = []
    for path in sorted(Path(scene_dir).glob("sweeps/*/sweep.json")):
        try:
            found.append(load(path.parent))
        except SpaceportError:
            continue  # of another version, or written by somebody else
    return found


def pictures(scene_dir: Path) -> list[Figure]:
    """Optuna's figures of every study of a scene: history, curves, parameters; none without a study."""
    drawn: list[Figure] = []
    for sweep in studies(scene_dir):
        study = open_study(sweep)
        if len(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))) < 2:
            continue
        names = list(sweep.space.distributions)
        drawn += [figure for draw in _kinds(study, names) if (figure := _draw(draw, sweep.name))]
    return drawn


def _kinds(study: optuna.Study, names: list[str]) -> list[Callable[[], Any]]:
    from optuna.visualization import matplotlib as drawing

    return [
        lambda: drawing.plot_optimization_history(study, target_name="PSNR [dB]"),
        lambda: drawing.plot_intermediate_values(study),
        lambda: drawing.plot_parallel_coordinate(study, params=names, target_name="PSNR [dB]"),
        lambda: drawing.plot_slice(study, params=names, target_name="PSNR [dB]"),
    ]


def _draw(draw: Callable[[], Any], name: str) -> Figure | None:
    """One of Optuna's figures, closed so that the notebook shows it once; None where it has too little."""
    with warnings.catch_warnings(), style():
        warnings.simplefilter("ignore")
        try:
            axes = draw()
        except (ValueError, RuntimeError):
            return None
        figure = axes.flat[0].figure if hasattr(axes, "flat") else axes.figure
        figure.set_size_inches(9.6, 3.8)
        # The bar of the slices lies over the last of them otherwise; the others' own places are right.
        figure.set_layout_engine("constrained" if hasattr(axes, "flat") else "tight")
        for ax in figure.axes:
            for place in ("left", "center"):  # where they stand is the style's affair
                if title := ax.get_title(loc=place):
                    ax.set_title(f"{title} · sweep {name}", loc=place, fontsize=10.5)
        if title := figure.get_suptitle():
            figure.suptitle(f"{title} · sweep {name}", fontsize=10.5)
        pyplot.close(figure)
    return figure
