"""The parts of the bench that a person presses, and its line of figures."""

from __future__ import annotations

import html
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import ipywidgets as w

from spaceport_lab.errors import SpaceportError
from spaceport_lab.workspace import Progress

RATE_SECONDS = 20.0
"""Over which the speed is measured that says how long the rest will take."""

FONT = "font:13px system-ui,sans-serif;color:var(--jp-ui-font-color1,#1f2933)"


class Buttons(w.HBox):
    """Start, pause and resume in one button; steps; stop.

    Args:
        press: called with "start", "pause", "resume", "stop".
        advance: called with the number of steps.
    """

    def __init__(self, press: Callable[[str], None], advance: Callable[[int], None]) -> None:
        narrow = w.Layout(width="104px")
        self.main = w.Button(description="Start", icon="play", button_style="primary", layout=narrow)
        self.step = w.Button(
            description="Step", icon="step-forward", layout=narrow, tooltip="so many steps, then wait again"
        )
        self.count = w.BoundedIntText(
            value=1, min=1, max=100_000, layout=w.Layout(width="84px"), tooltip="steps"
        )
        self.stop = w.Button(
            description="Stop and keep", icon="stop", layout=w.Layout(width="132px"),
            tooltip="end here, and keep what there is as after the last step",
        )  # fmt: skip
        self._does = "start"
        self.main.on_click(lambda _: press(self._does))
        self.step.on_click(lambda _: advance(self.count.value))
        self.stop.on_click(lambda _: press("stop"))
        super().__init__(
            [self.main, self.step, self.count, self.stop],
            layout=w.Layout(flex="0 0 auto", align_items="center"),
        )
        self.follow("new")

    def follow(self, state: str) -> None:
        """Offer what can be done in this state of a session."""
        does, icon = {
            "new": ("start", "play"), "running": ("pause", "pause"), "paused": ("resume", "play"),
            "pausing": ("resume", "play"),
        }.get(state, ("start", "play"))  # fmt: skip
        over = state in ("finished", "failed", "stopping")
        self._does = does
        self.main.description, self.main.icon, self.main.disabled = does.capitalize(), icon, over
        self.step.disabled = self.count.disabled = state != "paused"
        self.stop.disabled = over or state == "new"


class Status(w.HTML):
    """Step, PSNR, Gaussians and the time that is left, under a bar."""

    def __init__(self) -> None:
        super().__init__(layout=w.Layout(flex="1 1 320px", min_width="0", margin="0 0 0 12px"))
        self.add_class("spaceport-status")
        self._seen: deque[tuple[float, int]] = deque()
        self.write("not started")

    def write(self, words: str, share: float = 0.0, fault: bool = False) -> None:
        """Words under a bar that is full to `share`."""
        color = "var(--jp-error-color1,#D55E00)" if fault else "#0072B2"
        value = (
            f'<div style="{FONT}"><div style="height:6px;border-radius:3px;background:#8884;overflow:hidden">'
            f'<div style="height:6px;width:{share:.1%};background:{color}"></div></div>'
            f'<div style="margin-top:3px;line-height:1.35">{html.escape(words)}</div></div>'
        )
        if value != self.value:
            self.value = value

    def follow(self, state: str, now: Progress | None) -> None:
        """What a session does, in one line."""
        if now is None:
            self.write("starting" if state != "new" else "not started")
            return
        parts = [] if now.message in ("training", "paused") else [now.message]
        parts.append(f"step {now.step:,} of {now.total:,}" if now.total else f"step {now.step:,}")
        for name, label in (("psnr", "held out"), ("psnr_validation", "validation")):
            if name in now.values:
                parts.append(f"{now.values[name]:.2f} dB {label}")
        if "n_gaussians" in now.values:
            parts.append(f"{now.values['n_gaussians']:,.0f} Gaussians")
        if state == "running" and (left := self._left(now)) is not None:
            parts.append(f"about {in_words(left)} left")
        if state in ("paused", "pausing", "stopping"):
            parts.insert(0, state)
        self.write(" · ".join(parts), min(1.0, now.step / now.total) if now.total else 0.0)

    def _left(self, now: Progress) -> float | None:
        """Seconds, by the speed of late; None while it is not known."""
        clock = time.monotonic()
        if self._seen and clock - self._seen[-1][0] > 5:
            self._seen.clear()  # it stood still
        self._seen.append((clock, now.step))
        while clock - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()
        seconds, steps = clock - self._seen[0][0], now.step - self._seen[0][1]
        if seconds < 3 or steps <= 0 or not now.total:
            return None
        return (now.total - now.step) * seconds / steps


class Saver(w.HBox):
    """A name and a button that keeps the parameters as a preset.

    Args:
        save: writes the preset of this name and says where it is.
    """

    def __init__(self, save: Callable[[str], Path]) -> None:
        self.name = w.Text(placeholder="name of the preset", layout=w.Layout(width="220px"))
        self.button = w.Button(description="Save as preset", icon="save", layout=w.Layout(width="148px"))
        self.said = w.HTML(layout=w.Layout(flex="1 1 auto", min_width="0"))
        self._save = save
        self.button.on_click(lambda _: self._press())
        super().__init__([self.name, self.button, self.said], layout=w.Layout(align_items="center"))

    def _press(self) -> None:
        try:
            path = self._save(self.name.value.strip())
        except SpaceportError as error:
            words = error.what if error.expected is None else f"{error.what}; expected: {error.expected}"
            self.said.value = (
                f'<span style="color:var(--jp-error-color1,#D55E00)">{html.escape(words)}</span>'
            )
            return
        self.said.value = f'<span style="{FONT}">saved to <code>{html.escape(str(path))}</code></span>'


def in_words(seconds: float) -> str:
    """`40 s`, `3 min`, `1.5 h`."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
