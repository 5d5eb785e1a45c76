"""The doctor looks at the real machine, and says what to do when something is missing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from spaceport_lab import doctor
from spaceport_lab.backends import choose
from spaceport_lab.backends.choose import NoCuda, Obstacle


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


def looked_at(monkeypatch: pytest.MonkeyPatch, reason: NoCuda | None) -> dict[str, doctor.Finding]:
    """What the doctor says of a GPU that cannot be used for a reason."""
    monkeypatch.setattr(choose, "why_no_cuda", lambda: reason)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80_000_000_000)
    )
    return {f.subject: f for f in doctor.examine()}


@pytest.mark.parametrize("obstacle", Obstacle)
def test_every_obstacle_of_a_gpu_is_told_with_its_advice(
    monkeypatch: pytest.MonkeyPatch, obstacle: Obstacle
) -> None:
    findings = looked_at(monkeypatch, NoCuda(obstacle, "what is in the way"))
    kernels = obstacle in (Obstacle.KERNELS_NOT_BUILT, Obstacle.KERNELS_NOT_LOADED)
    finding = findings["gsplat kernels" if kernels else "GPU"]
    assert (finding.found, finding.advice) == ("what is in the way", obstacle.value)
    # A machine that was never meant to use a GPU is in order.
    harmless = ("TORCH_WITHOUT_CUDA", "NO_GPU", "GPU_HIDDEN", "NO_DRIVER")
    assert finding.state == ("note" if obstacle.name in harmless else "problem")
    assert (findings["GPU"].state == "ok") == kernels
    assert ("gsplat kernels" in findings) == kernels


def test_a_gpu_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = looked_at(monkeypatch, None)
    assert findings["GPU"].found == "a GPU, compute capability 9.0, 80 GB"
    assert findings["GPU"].state == findings["gsplat kernels"].state == "ok"
