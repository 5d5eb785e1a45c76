"""Sweeps: many trainings of one reconstruction, chosen by Optuna, judged at equal training time."""

from spaceport_lab.sweep.figures import pictures, studies
from spaceport_lab.sweep.judging import Outcome, TrialRow, outcome
from spaceport_lab.sweep.running import make_sweep, run_sweep
from spaceport_lab.sweep.space import Space, parse_space, read_space
from spaceport_lab.sweep.study import Sweep, load, open_study

__all__ = [
    "Outcome", "Space", "Sweep", "TrialRow", "load", "make_sweep", "open_study", "outcome", "parse_space",
    "pictures", "read_space", "run_sweep", "studies",
]  # fmt: skip
