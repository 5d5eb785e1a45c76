"""Panels of parameters, built from a stage's schema: control, unit, help and bounds all come from there."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args, get_origin

import ipywidgets as w
from pydantic import ValidationError

from spaceport_lab.errors import ParamsError
from spaceport_lab.params import StageParams
from spaceport_lab.params.describe import bounds, live_names

GROUPS: dict[str, tuple[str, ...]] = {
    "Densification": (
        "strategy", "grow_grad2d", "grow_to", "grow_ratio", "refine_start", "refine_stop", "refine_every",
        "reset_every", "percent_dense", "prune_opa", "cap_max", "absgrad", "revised_opacity",
    ),
    "Early stopping": (
        "max_steps", "target_psnr", "patience", "min_delta", "min_steps", "eval_every",
    ),
    "Progressive resolution": ("coarse_to_fine", "blur", "blur_stop", "lowpass", "sh_degree_interval"),
}  # fmt: skip
"""Panels of the train stage; all other parameters are under MORE."""

MORE = "More"
OF_THE_CELL = ("run_dir", "interactive", "log_every")
"""Belong to the notebook, not to what is trained."""

LOCKED = "fixed while training runs"

LOG_REACH = (-2.0, 1.5)
"""Powers of ten below and above a learning rate's default that its slider spans."""

Changed = Callable[[str, Any], None]


class Panel(w.VBox):
    """One row a parameter: its control, and beside it unit, help, and what there is to say.

    A value the schema refuses stays in its control with the reason beside it, and goes nowhere.

    Attributes:
        params: as they are shown, always valid.
        controls: name → the widget that holds the value.
    """

    def __init__(self, params: StageParams, names: Sequence[str], changed: Changed | None = None) -> None:
        self.params, self.controls = params, {}
        self._changed = changed
        self._texts: dict[str, w.HTML] = {}
        self._said: dict[str, tuple[str, bool]] = {}
        # Shared by all rows: each would be a model of its own in the page.
        rows = w.Layout(width="100%", align_items="center", min_height="30px")
        wide, rest = w.Layout(width="380px", flex="0 0 auto"), w.Layout(flex="1 1 auto", min_width="0")
        description = {"description_width": "140px"}
        for name in names:
            control = _control(type(params), name, getattr(params, name))
            control.description, control.style, control.layout = name, description, wide
            control.observe(lambda change, name=name: self._take(name, change["new"]), "value")
            self.controls[name], self._texts[name] = control, w.HTML(layout=rest)
            self._write(name)
        super().__init__([w.HBox([self.controls[n], self._texts[n]], layout=rows) for n in names])
        self.add_class("spaceport-panel")

    def set(self, params: StageParams) -> None:
        """Show these parameters; nothing is sent."""
        before, self.params = self.params, params
        for name, control in self.controls.items():
            value = getattr(params, name)
            if value != getattr(before, name) or control.value != value:
                control.value = value
                self.say(name, "")

    def lock(self, running: bool) -> None:
        """While training runs, only what may change then can be touched."""
        live = live_names(type(self.params))
        for name, control in self.controls.items():
            control.disabled = running and name not in live
            self._write(name)

    def freeze(self) -> None:
        """Training has ended: nothing can be touched any more."""
        for name, control in self.controls.items():
            control.disabled = False
            self._write(name)  # without the words about training that runs
            control.disabled = True

    def say(self, name: str, words: str, fault: bool = False) -> None:
        """Words beside a parameter; empty takes them away."""
        if self._said.get(name, ("", False)) != (words, fault):
            self._said[name] = (words, fault)
            self._write(name)

    def _take(self, name: str, raw: Any) -> None:
        value = _tidy(raw)
        if value == getattr(self.params, name):
            self.say(name, "")  # what was set from here, or a bad value taken back
            return
        try:
            params = _validated(self.params, name, value)
            if self._changed:
                self._changed(name, value)
        except ParamsError as error:
            self.say(name, error.what, fault=True)
            return
        self.params = params
        if not self._changed:
            self.say(name, "")

    def _write(self, name: str) -> None:
        unit, _, words = (type(self.params).model_fields[name].description or "").partition("] ")
        said, fault = self._said.get(name, ("", False))
        locked = self.controls[name].disabled and not said
        limits = bounds(type(self.params), name) if not _is_choice(type(self.params), name) else ""
        color = "var(--jp-error-color1, #D55E00)" if fault else "var(--jp-brand-color1, #0072B2)"
        parts = [f"<b style='color:{color}'>{html.escape(said)}</b>"] if said else []
        parts += [f"<i>{LOCKED}</i>"] if locked else []
        parts.append(f"{html.escape(unit)}] {html.escape(words)}")
        parts += [html.escape(limits)] if limits else []
        self._texts[name].value = (
            "<div style='font-size:12px;line-height:1.3;padding-left:8px;"
            "color:var(--jp-ui-font-color2,#666)'>" + " · ".join(parts) + "</div>"
        )


def panel(params: StageParams, names: Sequence[str], changed: Changed | None = None) -> Panel:
    """Controls for these parameters.

    Args:
        params: a stage's, as they are now.
        names: of the parameters, in order.
        changed: told name and value of every change the schema allows; a ParamsError it raises is shown
            beside the control, and the change forgotten.

    Raises:
        ParamsError: the stage has no such parameter.
    """
    missing = [name for name in names if name not in type(params).model_fields]
    if missing:
        raise ParamsError("a panel asks for parameters that do not exist", got=", ".join(missing))
    return Panel(params, names, changed)


def grouped(params: StageParams) -> dict[str, list[str]]:
    """Names of all parameters of the train stage by panel, MORE last."""
    fields = [name for name in type(params).model_fields if name not in OF_THE_CELL]
    taken = {name for names in GROUPS.values() for name in names}
    return {**{title: list(names) for title, names in GROUPS.items()},
            MORE: [name for name in fields if name not in taken]}  # fmt: skip


def limits(schema: type[StageParams], name: str) -> tuple[float | None, float | None]:
    """Lowest and highest value, None where there is no such bound; ends that are excluded count as bounds."""
    low = high = None
    for rule in schema.model_fields[name].metadata:
        for attribute in ("ge", "gt"):
            low = getattr(rule, attribute, None) if getattr(rule, attribute, None) is not None else low
        for attribute in ("le", "lt"):
            high = getattr(rule, attribute, None) if getattr(rule, attribute, None) is not None else high
    return low, high


def _control(schema: type[StageParams], name: str, value: Any) -> w.DOMWidget:
    """The widget for a field by its type and bounds."""
    field = schema.model_fields[name]
    low, high = limits(schema, name)
    if _is_choice(schema, name):
        return w.Dropdown(options=get_args(field.annotation), value=value)
    if field.annotation is bool:
        return w.Checkbox(value=value, indent=True)
    if field.annotation is str:
        return w.Text(value=value, continuous_update=False)
    if field.annotation is int:
        if low is None or high is None:
            return w.IntText(value=value, continuous_update=False)
        return w.IntSlider(value=value, min=low, max=high, continuous_update=False)
    if name.endswith("_lr"):
        return _rate(field.default, value)
    if low is None or high is None:
        return w.FloatText(value=value, continuous_update=False)
    step, digits = (0.001, ".3f") if field.default and field.default < 0.02 else (0.01, ".2f")
    return w.FloatSlider(
        value=value, min=low, max=high, step=step, readout_format=digits, continuous_update=False
    )


def _rate(default: float, value: float) -> w.FloatLogSlider:
    """Learning rates span powers of ten; one that was set far away still has its place."""
    powers = [math.log10(default) + reach for reach in LOG_REACH]
    low, high = min(powers[0], math.log10(value)), max(powers[1], math.log10(value))
    return w.FloatLogSlider(
        value=value, base=10, min=low, max=high, step=0.02, readout_format=".2e", continuous_update=False
    )


def _is_choice(schema: type[StageParams], name: str) -> bool:
    return get_origin(schema.model_fields[name].annotation) is Literal


def _tidy(value: Any) -> Any:
    """Sliders give 0.6000000000000001 and 1.23456e-4: six digits are what a person meant."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _validated(params: StageParams, name: str, value: Any) -> StageParams:
    try:
        return type(params)(**{**params.model_dump(), name: value})
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise ParamsError(f"{value!r} cannot be used: {message[:1].lower()}{message[1:]}") from error
