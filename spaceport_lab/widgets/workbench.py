"""The bench: a training beside the kernel that can be watched and steered, in one cell.

Threads: the session trains in one, a second draws now and then, and what a person presses is heard in the
kernel's subshell while a cell waits for the end. Callbacks only call `Control` or set plain attributes; no
tensor is touched outside the training thread.
"""

from __future__ import annotations

import base64
import logging
import threading
import time
from pathlib import Path
from typing import Any

import ipywidgets as w
from IPython.display import DisplayHandle

from spaceport_lab.errors import WorkspaceError
from spaceport_lab.params import TrainParams
from spaceport_lab.plots.train import WHY
from spaceport_lab.runcard import usable_cores
from spaceport_lab.session import Session
from spaceport_lab.train import inputs, schedules, steering
from spaceport_lab.train import plan as first_plan
from spaceport_lab.train.inputs import Views
from spaceport_lab.widgets import fallback, records
from spaceport_lab.widgets.canvases import Chart, Frames, Histogram
from spaceport_lab.widgets.controls import Buttons, Saver, Status
from spaceport_lab.widgets.frames import HeldoutView
from spaceport_lab.widgets.hearing import hear_while_a_cell_runs
from spaceport_lab.widgets.panels import grouped, panel
from spaceport_lab.widgets.presets import save_preset
from spaceport_lab.workspace import Progress, StageRun

logger = logging.getLogger(__name__)

UPDATE_SECONDS = max(1.0, 6.0 / usable_cores())
"""Between two updates of the page. One takes a browser 0.03 to 0.1 s of one core, the most where a GPU is
emulated; where it has the cores of the training this is 2 % of them at most, however few they are."""

PICTURE_SECONDS = 3 * UPDATE_SECONDS
"""Between two pictures of the held-out view, which are the most to paint."""

THRESHOLD = "grow_grad2d"


class Bench:
    """Buttons, charts, a held-out view and panels around one training.

    Args:
        run: the train stage.
        p: its parameters, as the notebook has them.
        views: as `train.read_views` gives them.

    Attributes:
        given: the parameters the bench was made with.
        params: as they are now, what was changed at the bench included.
        session: None until training starts.
    """

    def __init__(self, run: StageRun, p: TrainParams, views: Views) -> None:
        self.run, self.given, self.params, self.views = run, p, p, views
        self.session: Session | None = None
        self._handle: DisplayHandle | None = None
        self._ticker: threading.Thread | None = None
        self._ended = threading.Event()
        self._drawn: tuple[Any, ...] = ()
        self._noted, self._pictured = 0, -PICTURE_SECONDS
        self._drawing = threading.RLock()  # the page is drawn by the ticker and by what a person does
        self._spectrum = inputs.read_spectrum(run, views)
        self._n_first = first_plan(run, p, views).growth.first
        self._view = HeldoutView(run, views)
        self._build()

    def _build(self) -> None:
        plan, total = self._plan(), self.params.max_steps
        self.charts = {
            "loss": Chart(records.loss([], total)),
            "psnr": Chart(records.psnr([], total)),
            "gaussians": Chart(records.gaussians([], total)),
            "schedule": Chart(records.schedule(plan, total, 0)),
        }
        self.histogram = Histogram()
        self.histogram.observe(self._threshold_moved, "chosen")
        self.frames = Frames(say=self._no_pictures())
        self.frames.observe(lambda _: self._show_picture(), "wanted")
        self.panels = {
            title: panel(self.params, names, self._changed) for title, names in grouped(self.params).items()
        }
        self.buttons, self.status = Buttons(self._press, self._advance), Status()
        self.saver = Saver(self._save)
        self._follow_params()
        bar = w.HBox([self.buttons, self.status], layout=w.Layout(flex_flow="row wrap", align_items="center"))
        charts = w.GridBox(
            [self.charts[n] for n in ("loss", "psnr", "gaussians")]
            + [self.histogram, self.charts["schedule"]],
            layout=w.Layout(
                grid_template_columns="repeat(auto-fit, minmax(300px, 1fr))", grid_gap="4px 12px"
            ),
        )
        charts.add_class("spaceport-grid")
        self.histogram.add_class("spaceport-wide")
        tabs = w.Tab(list(self.panels.values()), titles=list(self.panels))
        self.widget = w.VBox([bar, charts, self.frames, tabs, self.saver], layout=w.Layout(width="100%"))
        self.widget.add_class("spaceport-bench")
        hear_while_a_cell_runs(self.widget)

    @property
    def state(self) -> str:
        """Of the session, or "new" before there is one."""
        return "new" if self.session is None else self.session.state

    def _ipython_display_(self) -> None:
        self.show()

    def show(self) -> None:
        """Put the bench under the running cell."""
        self._handle = DisplayHandle()
        data, metadata = self._bundle()
        self._handle.display(data, metadata=metadata, raw=True)

    def start(self) -> None:
        """Begin training; from now on only what may change while it runs can be changed.

        Raises:
            WorkspaceError: the run is trained elsewhere.
        """
        if self.session is not None:
            return
        self.session = Session(self.run, self.params)
        for one in self.panels.values():
            one.lock(True)
        self.session.start()
        self._ticker = threading.Thread(target=self._tick_on, name="spaceport-bench", daemon=True)
        self._ticker.start()

    def train(self) -> TrainParams:
        """Start or go on, wait until training has ended; returns the parameters to record the stage with.

        Raises:
            KeyboardInterrupt: the kernel was interrupted: training waits, with a checkpoint, until this is
                called again.
            what training raised.
        """
        if self._handle is None:
            self.show()
        self.start()
        if self.session.control.paused and not self.session.control.stopping:
            self.session.control.resume()
        try:
            self.session.wait()
        except KeyboardInterrupt:
            print("Run this cell again and training goes on; or press Resume at the bench.", flush=True)
            raise
        finally:
            self._ended.wait(10 * UPDATE_SECONDS if self.state in ("finished", "failed") else 0)
        _hand_over(self.session.run, self.run)
        return self.session.params

    def adopt(self, run: StageRun) -> None:
        """A notebook that was run again goes on with this bench: its `run` gets what is trained."""
        self.run, self._handle = run, None

    # What a person does: callbacks, in another thread than training.

    def _press(self, what: str) -> None:
        if what == "start":
            self.start()
        elif self.session is not None:
            getattr(self.session.control, what)()
        with self._drawing:
            self._draw_bar()

    def _advance(self, steps: int) -> None:
        if self.session is not None:
            self.session.control.advance(steps)

    def _changed(self, name: str, value: Any) -> None:
        """A panel's value, valid by the schema: now, or at the next step of a running training."""
        if self.session is None:
            self.params = self.params.model_copy(update={name: value})
            self._say(name, "")
        else:
            self.session.control.change(**{name: value})
            self.params = self.session.control.params
            self._say(name, "from the next step")
        with self._drawing:
            self._follow_params()

    def _threshold_moved(self, change: dict[str, Any]) -> None:
        if change["new"] != getattr(self.params, THRESHOLD):
            self.panels["Densification"].controls[THRESHOLD].value = change["new"]
            self.histogram.chosen = getattr(self.params, THRESHOLD)  # as before, where it was refused

    def _save(self, name: str) -> Path:
        now = self.session.latest if self.session else None
        note = ""
        if now is not None and "psnr" in now.values:
            note = f"At step {now.step:,}: {now.values['psnr']:.2f} dB held out."
        return save_preset(self.run, self.params, name, note)

    # What the bench shows.

    def _tick_on(self) -> None:
        """Until training has ended; a fault of drawing never ends it."""
        while True:
            ended = self.state in ("finished", "failed")
            try:
                with self._drawing:
                    self._tick()
                    if ended:
                        self._close()
            except Exception:
                logger.exception("the bench could not be drawn")
            if ended:
                self._ended.set()
                return
            self._ended.wait(UPDATE_SECONDS)

    def _tick(self) -> None:
        control = self.session.control
        if len(control.changes) != self._noted:
            self._note_changes()
        self._draw_bar()
        latest = self.session.latest
        # Training with a pause has nothing new to draw.
        drawn = (None if latest is None else (latest.step, latest.message), self.params)
        if drawn == self._drawn or latest is None:
            return
        self._drawn = drawn
        self._draw(latest)

    def _draw(self, latest: Progress) -> None:
        rows, total = self.session.records(), self.params.max_steps
        for name in ("loss", "psnr", "gaussians"):
            self.charts[name].show(getattr(records, name)(rows, total))
        self.charts["schedule"].show(records.schedule(self._plan(), total, latest.step))
        self.histogram.show(records.gradients(rows))
        steps = [step for step in self._view.steps() if step <= latest.step]
        if steps != self.frames.steps:
            due = time.monotonic() - self._pictured >= PICTURE_SECONDS
            if due or self.frames.wanted >= 0:
                self.frames.steps = steps
            if due and self.frames.wanted < 0:
                self._pictured = time.monotonic()
                self._show_picture()

    def _draw_bar(self) -> None:
        state = self.state
        control = self.session.control if self.session else None
        if control is not None and control.stopping and state in ("running", "paused"):
            state = "stopping"
        elif control is not None and control.paused and state == "running":
            state = "pausing"  # before the next step, or at the end of an advance
        self.buttons.follow(state)
        if state == "failed":
            self.status.write(f"failed: {self.session.error}".split("\n")[0], 1.0, fault=True)
        elif state == "finished":
            self.status.write(self._how_it_ended(), 1.0)
        else:
            self.status.follow(state, self.session.latest if self.session else None)

    def _how_it_ended(self) -> str:
        metrics = self.session.run.metrics
        why = metrics.get("stopped_by", "")
        parts = [f"finished: step {metrics.get('steps', 0):,} of {self.params.max_steps:,}"]
        if metrics.get("psnr_heldout") is not None:
            parts.append(f"{metrics['psnr_heldout']:.2f} dB held out")
        parts.append(f"{metrics.get('n_gaussians', 0):,} Gaussians")
        if reason := WHY.get(why, "stopped and kept" if why == "person" else why):
            parts.append(reason)
        return " · ".join(parts)

    def _show_picture(self) -> None:
        steps = self.frames.steps
        if not steps:
            return
        step = steps[-1] if self.frames.wanted < 0 else self.frames.wanted
        found = self._view.at(step)
        if found is None:
            return
        photo, render, error, mean = found
        with self.frames.hold_sync():
            self.frames.photo, self.frames.render, self.frames.error = photo, render, error
            self.frames.captions, self.frames.say = self._view.captions(step, mean), ""

    def _note_changes(self) -> None:
        changes = list(self.session.control.changes)
        self.params = self.session.control.params
        self._follow_params()
        for change in changes[self._noted :]:
            for name in change.values:
                self._say(name, f"from step {change.step + 1:,}")
        self._noted = len(changes)

    def _follow_params(self) -> None:
        """All controls show the same parameters."""
        for one in self.panels.values():
            one.set(self.params)
        threshold = getattr(self.params, THRESHOLD)
        if self.histogram.chosen != threshold:
            self.histogram.chosen = threshold
        self.histogram.enabled = self.params.strategy == "default" and self.state not in (
            "finished",
            "failed",
        )
        if self.params.strategy != "default":
            self.histogram.note = "MCMC looks at no gradients"
        if self.session is None:
            total = self.params.max_steps
            self.charts["schedule"].show(records.schedule(self._plan(), total, 0))
            self.frames.say = self._no_pictures()

    def _say(self, name: str, words: str) -> None:
        for one in self.panels.values():
            if name in one.controls:
                one.say(name, words)

    def _no_pictures(self) -> str:
        if not self.params.timelapse:
            return "no pictures of a held-out view: timelapse is off"
        return f"The view {self._view.name} appears here with its first picture."

    def _plan(self) -> schedules.Plan:
        return steering.plan_from(self.params, self.views, self._n_first, self._spectrum)

    def _close(self) -> None:
        """Training has ended: nothing can be changed, and what is exported shows the end."""
        self.params = self.session.control.params
        if self.session.latest is not None:
            self._pictured = -PICTURE_SECONDS
            self._draw(self.session.latest)
        self.histogram.enabled = False
        for one in self.panels.values():
            one.freeze()
        if self._handle is not None:
            data, metadata = self._bundle()
            self._handle.update(data, metadata=metadata, raw=True)

    def _bundle(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The widget, and a picture where there are no widgets."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        shown = [self.charts[n].drawing for n in ("loss", "psnr", "gaussians", "schedule")]
        gradients = records.gradients(self.session.records()) if self.session else None
        pictures = [c for c in (self.frames.photo, self.frames.render, self.frames.error) if c]
        png = fallback.picture(shown, gradients, pictures)
        alt = ". ".join(drawing.alt for drawing in shown)
        return {
            "text/plain": "the bench, " + (self._how_it_ended() if self.state == "finished" else self.state),
            "image/png": base64.b64encode(png).decode(),
            "application/vnd.jupyter.widget-view+json": view,
        }, {"image/png": {"alt": alt}}  # fmt: skip


_benches: dict[Path, Bench] = {}


def open_bench(run: StageRun, p: TrainParams, views: Views) -> Bench:
    """A bench for this training; the one that is there already while it trains or waits.

    Raises:
        WorkspaceError: a training of this run with other parameters has not ended.
    """
    there = _benches.get(run.dir)
    if there is not None and there.state in ("running", "paused"):
        if there.given == p:
            there.adopt(run)
            return there
        raise WorkspaceError(
            "a training of this run with other parameters has not ended",
            got=f"it is {there.state}, in {run.dir}",
            hint="press Stop and keep at its bench, or restart the kernel: started with its parameters it "
            "goes on from its checkpoint",
        )
    _benches[run.dir] = Bench(run, p, views)
    return _benches[run.dir]


def _hand_over(source: StageRun, target: StageRun) -> None:
    """What a training made, to the run object of a notebook that was started again meanwhile."""
    if source is target:
        return
    target.metrics.update(source.metrics)
    target.outputs.update(source.outputs)
    target.steered = source.steered
    for warning in source.warnings:
        target.warn(warning)
    target.failed_gates.extend(source.failed_gates)
