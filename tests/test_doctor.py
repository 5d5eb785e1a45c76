"""The doctor looks at the real machine, and says what to do when something is missing."""

from __future__ import annotations

import pytest

from spaceport_lab import doctor


def test_this_machine_can_run_the_pipeline() -> None:
    findings = {f.subject: f for f in doctor.examine()}
    assert {"processor", "memory", "disk", "versions", "GPU", "rasterizer", "viewer"} <= set(findings)
    assert findings["rasterizer"].state == "ok"
    assert findings["viewer"].state == "ok"
    assert findings["versions"].state == "ok"


def test_every_problem_comes_with_what_to_do() -> None:
    assert all(f.advice for f in doctor.examine() if f.state != "ok")


def test_a_full_disk_and_little_memory_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_DISK_GB", 1e9)
    monkeypatch.setattr(doctor, "MIN_MEMORY_GB", 1e9)
    states = {f.subject: f.state for f in doctor.examine()}
    assert (states["disk"], states["memory"]) == ("problem", "note")


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no sensors")

    monkeypatch.setattr(doctor, "_processor", broken)
    first = doctor.examine()[0]
    assert (first.state, first.found) == ("problem", "RuntimeError: no sensors")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.runcard, "VERSIONED", ("numpy", "no-such-package"))
    finding = next(f for f in doctor.examine() if f.subject == "versions")
    assert finding.state == "problem"
    assert "no-such-package" in finding.advice
