"""A batch on this machine: one bad scene, a rerun, an interruption, files that cannot be used."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from batching import make_scenes, stub, times_run
from rich.console import Console
from waiting import until

from spaceport_lab import fence, runcard
from spaceport_lab.batch import Here, Outcome, make_batch, run_batch
from spaceport_lab.batch import attempt as attempts
from spaceport_lab.batch.showing import Display, moving, summary
from spaceport_lab.errors import BackendError, InputError, ParamsError, WorkspaceError


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spaceport_lab.batch.here.retry_delay", lambda tried: 0.01)
    monkeypatch.delenv(fence.VARIABLE, raising=False)


def write(folder: Path, content: Any, name: str = "may.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def run(folder: Path, jobs: int = 2, **options: Any) -> Outcome:
    batch = make_batch(folder / "may.yaml", folder / "data")
    return run_batch(batch, Here(jobs), command=stub(folder), **options)


def test_one_bad_scene_of_ten_and_a_rerun_that_does_only_that_one(tmp_path: Path) -> None:
    places = make_scenes(tmp_path / "sites", 10)
    (places[4] / "bad.txt").touch()
    write(tmp_path, {"scenes": ["sites/*"]})
    outcome = run(tmp_path)
    states = [row.state for row in outcome.rows]
    assert states.count("succeeded") == 9
    assert states[4] == "failed"
    assert outcome.exit_code == 1
    bad = outcome.rows[4]
    assert (bad.code, bad.reason.splitlines()[0]) == ("SL-200", "these are no photographs.")
    good = outcome.rows[0]
    assert (good.psnr, good.size, good.seconds, good.attempts) == (30.0, 2_000_000, 3.0, 1)
    assert good.job == "may-site00"
    assert Path(good.run_dir) == tmp_path / "data/site00/runs/may-site00"
    kept = json.loads((tmp_path / "data/.batches/may/batch.json").read_text())
    assert kept["counts"] == {"failed": 1, "succeeded": 9}
    assert (kept["status"], kept["exit_code"]) == ("ended", 1)
    assert kept["scenes"][4]["code"] == "SL-200"
    card = runcard.read(Path(good.run_dir)) or {}
    (only,) = card["attempts"]
    assert (only["number"], only["state"], only["node"]) == (1, "succeeded", "")
    assert only["host"]
    assert only["started"] <= only["ended"]

    again = run(tmp_path)
    assert [times_run(place) for place in places] == [1] * 4 + [2] + [1] * 5
    assert again.exit_code == 1
    assert sum(row.before for row in again.rows) == 9

    (places[4] / "bad.txt").unlink()
    mended = run(tmp_path)
    assert mended.exit_code == 0
    assert [times_run(place) for place in places] == [1] * 4 + [3] + [1] * 5
    card = runcard.read(Path(bad.run_dir)) or {}
    assert [(a["number"], a["state"], a.get("code")) for a in card["attempts"]] == [
        (1, "failed", "SL-200"), (2, "failed", "SL-200"), (3, "succeeded", None),
    ]  # fmt: skip


def test_other_parameters_are_run_anew(tmp_path: Path) -> None:
    (place,) = make_scenes(tmp_path / "sites", 1)
    write(tmp_path, {"scenes": ["sites/site00"]})
    assert run(tmp_path).exit_code == 0
    write(tmp_path, {"scenes": ["sites/site00"], "defaults": {"overrides": ["train.max_steps=77"]}})
    assert run(tmp_path).exit_code == 0
    assert times_run(place) == 2


@pytest.mark.parametrize("trouble", ["busy", "die"])
def test_what_may_pass_is_tried_again(trouble: str, tmp_path: Path) -> None:
    (place,) = make_scenes(tmp_path / "sites", 1)
    (place / f"{trouble}.txt").touch()
    write(tmp_path, {"scenes": ["sites/site00"]})
    outcome = run(tmp_path)
    assert outcome.exit_code == 0
    assert times_run(place) == 2
    card = runcard.read(Path(outcome.rows[0].run_dir)) or {}
    assert [one["state"] for one in card["attempts"]] == ["failed", "succeeded"]


def test_a_scene_that_is_missing_does_not_stop_the_others(tmp_path: Path) -> None:
    make_scenes(tmp_path / "sites", 1)
    write(tmp_path, {"scenes": ["sites/site00", "sites/gone"]})
    outcome = run(tmp_path)
    assert [row.state for row in outcome.rows] == ["succeeded", "failed"]
    assert "nothing at this path" in outcome.rows[1].reason
    assert outcome.exit_code == 1


def test_lines_over_defaults(tmp_path: Path) -> None:
    make_scenes(tmp_path / "sites", 2)
    write(
        tmp_path,
        {
            "defaults": {
                "presets": ["fast"], "overrides": ["train.seed=3"], "output": "s3://bucket/runs",
            },
            "scenes": [
                {"source": "sites/site00", "name": "Harbour May", "overrides": ["train.max_steps=9"]},
                {"source": "sites/site01", "presets": ["demo"]},
            ],
        },
    )  # fmt: skip
    first, second = make_batch(tmp_path / "may.yaml", tmp_path / "data", "Night of 3 May!").scenes
    assert first.job == "night-of-3-may-harbour-may"
    assert first.run_dir == tmp_path / "data/harbour-may/runs" / first.job
    assert second.run_dir == tmp_path / "data/site01/runs" / second.job
    assert first.ask.overrides == ("train.seed=3", "train.max_steps=9")
    assert first.ask.presets == ("fast",)
    assert second.ask.presets == ("demo",)
    assert second.ask.output == "s3://bucket/runs"
    other = make_batch(tmp_path / "may.yaml", tmp_path / "data", output="s3://other/place").scenes[0]
    assert other.ask.output == "s3://other/place"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("scenes: [a, b", "is not YAML"),
        ("", "is no list of scenes"),
        ("- a\n- b\n", "is no list of scenes"),
        ({"scenes": []}, "scenes: "),
        ({"scenes": "sites/site00"}, "must be a list of paths"),
        ({"scene": ["a"]}, "did you mean scenes?"),
        ({"scenes": ["a"], "defaults": {"preset": ["fast"]}}, "did you mean presets?"),
        ({"scenes": [{"source": "a", "overides": []}]}, "did you mean overrides?"),
        ({"scenes": [{"name": "a"}]}, "scenes.0.source"),
        ({"scenes": [3]}, "scenes.0"),
        ({"scenes": ["sites/site00"], "defaults": {"steps": "fulll"}}, "steps: must be one of"),
        ({"scenes": ["sites/site00"], "defaults": {"output": "/tmp"}}, "s3://bucket/runs"),
        ({"scenes": ["sites/site00"], "defaults": {"presets": ["fats"]}}, "did you mean fast?"),
        ({"scenes": ["sites/site00", {"source": "sites/site01", "overrides": ["train.max_step=3"]}]},
         "scene site01: .*no parameter 'max_step'"),
        ({"scenes": [{"source": "sites/gone", "overrides": ["train.max_steps=-3"]}]}, "max_steps"),
        ({"scenes": ["sites/site00", "sites/site00"]}, "two scenes of one name: site00"),
        ({"scenes": ["sites/*", "other/site00"]}, "two scenes of one name: site00"),
        ({"scenes": [{"source": "sites/*", "name": "all"}]}, "cannot all be called 'all'"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used_are_refused_before_anything_runs(
    content: Any, says: str, tmp_path: Path
) -> None:
    make_scenes(tmp_path / "sites", 2)
    make_scenes(tmp_path / "other", 1)
    path = write(tmp_path, content)
    with pytest.raises(ParamsError, match=f"(?s){says}"):
        make_batch(path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_pattern_that_matches_nothing_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="matches nothing"):
        make_batch(write(tmp_path, {"scenes": ["sites/*"]}), tmp_path / "data")
    with pytest.raises(ParamsError, match="cannot be read"):
        make_batch(tmp_path / "june.yaml", tmp_path / "data")


def test_the_example_can_be_read() -> None:
    from spaceport_lab.batch.plan import read_plan

    plan = read_plan(Path(__file__).parents[1] / "docs" / "batch-example.yaml")
    assert plan.defaults.presets == ("fast",)
    assert plan.scenes[0].source == "../data/sample"


def test_cuda_that_cannot_be_had_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(name: str) -> None:
        raise BackendError(f"no {name}")

    monkeypatch.setattr("spaceport_lab.backends.choose_backend", none)
    places = make_scenes(tmp_path / "sites", 2)
    cuda = {"source": "sites/site01", "overrides": ["train.backend=cuda"]}
    write(tmp_path, {"scenes": ["sites/site00", cuda]})
    with pytest.raises(BackendError):
        run(tmp_path)
    assert [times_run(place) for place in places] == [0, 0]


def test_one_process_a_batch(tmp_path: Path) -> None:
    (place,) = make_scenes(tmp_path / "sites", 1)
    (place / "wait.txt").touch()
    write(tmp_path, {"scenes": ["sites/site00"]})
    first = threading.Thread(target=run, args=(tmp_path,))
    first.start()
    try:
        until(lambda: times_run(place))
        with pytest.raises(WorkspaceError, match="run by another process"):
            run(tmp_path)
    finally:
        (place / "wait.txt").unlink()
        first.join()
    assert times_run(place) == 1


DRIVER = """
import sys
from pathlib import Path
from spaceport_lab.batch import Here, make_batch, run_batch
folder = Path(sys.argv[1])
outcome = run_batch(make_batch(folder / "may.yaml", folder / "data"), Here(2), command=sys.argv[2:])
sys.exit(outcome.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_no_orphans_and_the_rest_later(number: signal.Signals, tmp_path: Path) -> None:
    places = make_scenes(tmp_path / "sites", 3)
    for place in places:
        (place / "wait.txt").touch()
    write(tmp_path, {"scenes": ["sites/*"]})
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), *stub(tmp_path)])
    try:
        cards = [tmp_path / "data" / p.name / "runs" / f"may-{p.name}" for p in places]
        until(lambda: all((runcard.read(card) or {}).get("attempts") for card in cards[:2]))
        family = psutil.Process(driver.pid).children(recursive=True)
        assert len(family) == 4, "a keeper and a process for each of two scenes"
        driver.send_signal(number)
        code = driver.wait(60)
    finally:
        driver.kill()
        driver.wait()
    assert not psutil.wait_procs(family, timeout=20)[1], "orphans"
    kept = json.loads((tmp_path / "data/.batches/may/batch.json").read_text())
    if number == signal.SIGKILL:
        assert kept["status"] == "running"
    else:
        assert code == 130
        assert kept["status"] == "interrupted"
        assert kept["exit_code"] == 130
        assert [row["state"] for row in kept["scenes"]] == ["interrupted", "interrupted", "waiting"]
        assert [(runcard.read(card) or {})["attempts"][-1]["state"] for card in cards[:2]] == [
            "interrupted"
        ] * 2
    for place in places:
        (place / "wait.txt").unlink()
    assert run(tmp_path).exit_code == 0
    assert [times_run(place) for place in places] == [2, 2, 1]
    first = "lost" if number == signal.SIGKILL else "interrupted"
    states = [one["state"] for one in (runcard.read(cards[0]) or {})["attempts"]]
    assert states == [first, "succeeded"]


def test_numbers_are_given_once_and_only_grow(tmp_path: Path) -> None:
    taken: list[int] = []
    threads = [
        threading.Thread(target=lambda: taken.extend(attempts.take_number(tmp_path) for _ in range(10)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 81))
    (tmp_path / fence.NAME).write_text("200")  # a queue's worker had it meanwhile
    assert attempts.take_number(tmp_path) == 201


def test_a_lost_attempt_says_nothing_on_the_card(tmp_path: Path) -> None:
    make_scenes(tmp_path / "sites", 1)
    write(tmp_path, {"scenes": ["sites/site00"]})
    batch = make_batch(tmp_path / "may.yaml", tmp_path / "data")
    scene = batch.scenes[0]
    assert scene.run_dir is not None
    root = scene.run_dir
    work = attempts.Work(
        scene.job, scene.ask.model_dump(mode="json"), str(batch.data), str(root), str(batch.folder)
    )
    old = attempts._Running(work, attempts.take_number(root), tmp_path / "log", "one")
    assert old.note("running")
    new = attempts._Running(work, attempts.take_number(root), tmp_path / "log", "two")
    (root / fence.NAME).write_text("2")
    assert new.note("running")
    assert not old.note("succeeded")
    card = runcard.read(root) or {}
    assert [(one["number"], one["node"], one["state"]) for one in card["attempts"]] == [
        (1, "one", "lost"), (2, "two", "running"),
    ]  # fmt: skip


def test_the_tables(tmp_path: Path) -> None:
    places = make_scenes(tmp_path / "sites", 3)
    (places[1] / "bad.txt").touch()
    write(tmp_path, {"scenes": ["sites/*"]})
    plain = Console(file=io.StringIO(), width=160)
    with Display(plain) as display:
        outcome = run(tmp_path, told=display.told)
    lines = plain.file.getvalue()
    assert "site00: succeeded" in lines
    assert "site01: failed" in lines
    console = Console(file=io.StringIO(), width=160)
    console.print(summary(outcome.rows))
    console.print(moving(outcome.rows, 2))
    text = console.file.getvalue()
    assert "30.00" in text
    assert "2.00" in text
    assert "SL-200" in text
    assert "these are no photographs" in text
    assert "2 succeeded, 1 failed" in text
    terminal = Console(file=io.StringIO(), width=100, force_terminal=True)
    with Display(terminal) as display:
        display.told(outcome.rows)
    assert "site01" in terminal.file.getvalue()
