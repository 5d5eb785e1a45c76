"""The bench in a notebook: a training that can be watched and steered, panels from the schema, presets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spaceport_lab import notebook
from spaceport_lab import train as stage
from spaceport_lab.params import TrainParams
from spaceport_lab.plots.train import live_figure
from spaceport_lab.train.estimate import Estimate
from spaceport_lab.train.inputs import Views
from spaceport_lab.widgets.controls import in_words
from spaceport_lab.widgets.panels import panel
from spaceport_lab.widgets.tuning import apart
from spaceport_lab.workspace import StageRun

if TYPE_CHECKING:
    from spaceport_lab.widgets.workbench import Bench


class Batch:
    """The bench where nobody looks: it trains, and logs a line now and then."""

    def __init__(self, run: StageRun, p: TrainParams) -> None:
        self.run, self.params = run, p

    def __repr__(self) -> str:
        return "not interactive: nothing to press, training runs in one go"

    def train(self) -> TrainParams:
        """Train to the end; returns the parameters to record the stage with.

        Raises:
            what `train.run` raises.
        """
        for _ in notebook.live(stage.run(self.run, self.params), self.params, live_figure):
            pass
        return self.params


def bench(run: StageRun, p: TrainParams, views: Views) -> Bench | Batch:
    """Buttons, charts and panels around a training that has not begun; its `train()` begins and waits.

    A cell that is run again gets the bench it had while that trains or waits.

    Args:
        run: the train stage.
        p: its parameters; without `interactive` there is nothing to see, and the numbers are the same.
        views: as `train.read_views` gives them.

    Raises:
        WorkspaceError: a training of this run with other parameters has not ended.
        PhotosError: a photograph is missing or broken.
    """
    if not p.interactive:
        return Batch(run, p)
    from spaceport_lab.widgets.workbench import open_bench

    return open_bench(run, p, views)


def train(run: StageRun, p: TrainParams, views: Views) -> TrainParams:
    """`bench(run, p, views)`, shown and trained at once; waits until training has ended.

    Returns:
        The parameters to record the stage with.

    Raises:
        KeyboardInterrupt: the kernel was interrupted; the same call goes on.
        what `bench` and `train.run` raise.
    """
    return bench(run, p, views).train()


def expectation(expected: Estimate) -> list[dict[str, str]]:
    """What a training should take, as the rows of a table."""
    took = f"about {in_words(expected.seconds)}"
    took += f" ({in_words(expected.seconds_low)} to {in_words(expected.seconds_high)})"
    return [
        {"expected": "training time on this machine", "value": took},
        {"expected": "memory", "value": f"{expected.peak_mb:,.0f} MB"},
        {"expected": "Gaussians at the end", "value": f"{expected.n_gaussians_end:,}"},
    ]


__all__ = ["Batch", "apart", "bench", "expectation", "panel", "train"]
