"""Log lines as JSON with job and stage, without secrets; metrics as CloudWatch and Prometheus want them."""

from __future__ import annotations

import io
import json
import logging
import math
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import settings as trying
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from spaceport_lab import logs, runcard
from spaceport_lab.errors import ParamsError
from spaceport_lab.logs import secrets
from spaceport_lab.logs.figures import BUCKETS, UNITS
from spaceport_lab.params import STAGES

OURS = logging.getLogger("spaceport_lab.somewhere")


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("LOG_FORMAT", "LOG_LEVEL", "SPACEPORT_JOB", "SPACEPORT_STAGE"):
        monkeypatch.delenv(name, raising=False)
    root = logging.getLogger()
    handlers, level, ours = list(root.handlers), root.level, logging.getLogger("spaceport_lab").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("spaceport_lab").setLevel(ours)
    logging.captureWarnings(False)


def configured(**options: object) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(**{"format": "json", "level": "DEBUG", "stream": stream} | options)  # type: ignore[arg-type]
    return stream


def lines(stream: io.StringIO) -> list[dict]:
    # split, not splitlines: a line ends at a newline and nowhere else.
    return [json.loads(line) for line in stream.getvalue().split("\n") if line]


class TestLines:
    def test_what_loggers_write_comes_out_as_json_with_job_and_stage(self) -> None:
        stream = configured()
        with logs.bound("harbour-1"):
            OURS.info("%d photographs", 30, extra={"n": 30})
            with logs.bound(stage="train"):
                OURS.warning("slow")
        OURS.info("after")
        first, second, third = lines(stream)
        assert list(first)[:5] == ["time", "level", "logger", "event", "job"]
        assert (first["level"], first["event"], first["n"]) == ("info", "30 photographs", 30)
        assert (first["job"], second["job"], second["stage"]) == ("harbour-1", "harbour-1", "train")
        assert "stage" not in first
        assert not {"job", "stage"} & set(third)

    def test_a_child_process_knows_its_job(self) -> None:
        code = (
            "import logging; from spaceport_lab import logs; logs.configure()\n"
            "logging.getLogger('spaceport_lab').info('x')"
        )
        environment = {**logs.child_environment("harbour-1", "sfm"), "LOG_FORMAT": "json", "PATH": ""}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        line = json.loads(done.stderr)
        assert (line["job"], line["stage"], line["event"]) == ("harbour-1", "sfm", "x")

    def test_two_threads_do_not_mix(self) -> None:
        stream = configured()

        def work(job: str) -> None:
            with logs.bound(job):
                for _ in range(50):
                    OURS.info(job)

        threads = [threading.Thread(target=work, args=(f"job-{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(line["job"] == line["event"] for line in lines(stream))
        assert len(lines(stream)) == 200

    def test_hostile_content_stays_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = configured()
        # pytest keeps what is logged and sends it to another process, which half a surrogate pair cannot do.
        for logger in (logging.root, OURS, logging.getLogger("spaceport_lab")):
            kept = [handler for handler in logger.handlers if type(handler).__name__ != "LogCaptureHandler"]
            monkeypatch.setattr(logger, "handlers", kept)
        more = {"x": float("nan"), "y": object()}
        OURS.info('a\nb\r\n{"level": "error"}\u2028 caf\udce9 \x00 %s', b"\xff", extra=more)
        deep: list = ["end"]
        for _ in range(50):
            deep = [deep]
        OURS.info("deep", extra={"deep": deep})
        loop: list = []
        loop.append(loop)
        OURS.info("loop", extra={"loop": loop})
        assert len(lines(stream)) == 3
        assert stream.getvalue().isascii()

    def test_an_exception_and_its_secrets(self) -> None:
        for format in logs.FORMATS:
            stream = configured(format=format)
            password = "hunter2hunter2"
            try:
                raise ValueError(f"https://ada:{password}@host")
            except ValueError:
                OURS.exception("failed")
            assert "ValueError" in stream.getvalue()
            assert password not in stream.getvalue()

    def test_warnings_come_too(self) -> None:
        stream = configured()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", stacklevel=1)
        assert "old" in lines(stream)[0]["event"]

    def test_again_replaces_and_leaves_others_alone(self) -> None:
        other = logging.NullHandler()
        logging.getLogger().addHandler(other)
        first, second = configured(), configured()
        OURS.info("once")
        assert (first.getvalue(), len(lines(second))) == ("", 1)
        assert other in logging.getLogger().handlers

    def test_levels(self) -> None:
        stream = configured(level="", environment={"LOG_LEVEL": " warning "})
        OURS.info("no")
        OURS.warning("ours")
        logging.getLogger("botocore").info("no")
        logging.getLogger("botocore").warning("theirs")
        assert [line["event"] for line in lines(stream)] == ["ours", "theirs"]
        stream = configured(level="ERROR")
        logging.getLogger("botocore").warning("no")
        assert lines(stream) == []

    @pytest.mark.parametrize("options", [{"format": "xml"}, {"level": "loud"}])
    def test_what_is_not_known(self, options: dict[str, str]) -> None:
        with pytest.raises(ParamsError):
            logs.configure(**options)

    def test_console_is_the_default_and_has_no_colours_in_a_file(self) -> None:
        stream = configured(format="", environment={})
        with logs.bound("harbour-1"):
            OURS.info("hello")
        assert "hello" in stream.getvalue()
        assert "job=harbour-1" in stream.getvalue()
        assert "\x1b" not in stream.getvalue()


TOKEN = st.text(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~+/", min_size=12, max_size=60
)
KEY = st.from_regex(r"(AKIA|ASIA)[A-Z2-7]{16}", fullmatch=True)
FORMS = [
    "Authorization: Bearer {}",
    "authorization={}",
    '{{"Authorization": "Basic {}"}}',
    "GET /x bearer {} HTTP/1.1",
    "https://ada:{}@host.example.com/path",
    "s3://x:{}@bucket",
    "postgresql+psycopg://u:{}@db/x",
    "a?token={}&p=2",
    "https://b.example.com/k?X-Amz-Expires=60&X-Amz-Signature={}&x=1",
    "X-Amz-Security-Token={}",
    "password={}",
    "SPACEPORT_SMTP_PASSWORD={}",
    'smtp_password: "{} with spaces"',
    "{{'secret': '{}'}}",
    "private_key={}",
    '\\"token\\": \\"{}\\"',
    "aws_secret_access_key = {}",
    "secretAccessKey={}",
    "api-key: {}",
    "API_KEY={}",
    "Cookie: session={}; a=b",
    "set-cookie: a={}",
    "whsec_{}",
    "client_secret={}",
    "passphrase: {}",
]


class TestSecrets:
    @trying(max_examples=150, deadline=None)
    @given(st.sampled_from(FORMS), TOKEN, st.text(max_size=20), st.text(max_size=20))
    def test_a_secret_in_any_form_is_gone(self, form: str, token: str, before: str, after: str) -> None:
        # Without the slash and the dots that end a part of an address, which no token in one may have.
        token = token.replace("/", "0") if "://" in form else token
        parts = {token[i : i + 8] for i in range(len(token) - 7)}
        assume(not any(part in before + after + form for part in parts))
        text = f"{before} {form.format(token)} {after}"
        told = logs.redact(text)
        assert not any(part in told for part in parts)
        assert logs.redact(told) == told
        assert token not in json.dumps(logs.without_secrets({"event": text, "nested": [{"x": (text,)}]}))

    @given(KEY, st.text(" \n\"'=:,", max_size=3))
    def test_keys_of_aws(self, key: str, around: str) -> None:
        assert key not in logs.redact(f"{around} {key}{around}")

    @given(st.dictionaries(st.text(max_size=8), st.integers() | st.floats(allow_nan=False) | st.booleans()))
    def test_numbers_stay(self, values: dict) -> None:
        assert list(logs.without_secrets(values).values()) == list(values.values())

    @given(st.text())
    def test_any_text_comes_through_and_twice_is_once(self, text: str) -> None:
        told = logs.redact(text)
        assert logs.redact(told) == told

    @pytest.mark.parametrize(
        "text",
        [
            "30 of 30 photographs",
            "s3://bucket/a@b/c.jpg",
            "mail to ada@example.org failed",
            "/data/x/runs/x-1",
            "https://example.com:8080/path?x=1",
            "2026-11-21T19:52:02Z",
            "train.cap_max=100000",
            "a passing test",
        ],
    )
    def test_what_is_no_secret_stays(self, text: str) -> None:
        assert logs.redact(text) == text

    def test_fields_are_known_by_their_name(self) -> None:
        given = {"password": "x y", "API-Key": b"k", "token": 3, "tokens_file": "t", "n": {"secret": "s"}}
        told = {"password": "***", "API-Key": "***", "token": 3, "tokens_file": "t", "n": {"secret": "***"}}
        assert logs.without_secrets(given) == told

    def test_what_has_no_text(self) -> None:
        class Mute:
            def __str__(self) -> str:
                raise RuntimeError("no")

        assert "Mute" in logs.without_secrets({"x": Mute()})["x"]

    @pytest.mark.parametrize(
        "part", ["x", "a-", "token", "secret=", '"', "://", "bearer ", "password='", "x@"]
    )
    def test_a_long_text_is_no_burden(self, part: str) -> None:
        """What takes time with the square of the length is at this until the tests' own limit ends it."""
        secrets.redact(part * (200_000 // len(part)))


CARD = {
    "job": "harbour-1",
    "scene": "harbour",
    "status": "failed",
    "seconds": 12.5,
    "cost": 0.25,
    "request": {"presets": ["demo", "/home/ada/my presets/compact.yaml"]},
    "stages": {
        "ingest": {"status": "succeeded", "seconds": 2.5, "peak_rss_mb": 480.0, "metrics": {"n_used": 30}},
        "sfm": {"status": "succeeded", "seconds": 9.0, "reused_from": "harbour-0", "metrics": {}},
        "train": {
            "status": "failed",
            "seconds": 10,
            "metrics": {"psnr_heldout": math.nan, "stopped_by": "x"},
        },
        "compress": {"status": "pending"},
    },
}


def check_emf(line: str) -> dict:
    """The rules of the embedded metric format, as its specification has them."""
    assert "\n" not in line
    assert len(line.encode()) < 256 * 1024
    root = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    meta = root["_aws"]
    assert set(meta) == {"Timestamp", "CloudWatchMetrics"}
    assert type(meta["Timestamp"]) is int
    assert 1e12 < meta["Timestamp"] < 1e13, "milliseconds"
    assert isinstance(meta["CloudWatchMetrics"], list)
    for directive in meta["CloudWatchMetrics"]:
        assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
        assert 1 <= len(directive["Namespace"]) <= 1024
        for names in directive["Dimensions"]:
            assert len(names) <= 30
            for name in names:
                assert 1 <= len(name) <= 250
                assert isinstance(root[name], str)
                assert 1 <= len(root[name]) <= 1024
        assert 1 <= len(directive["Metrics"]) <= 100
        for metric in directive["Metrics"]:
            assert set(metric) <= {"Name", "Unit", "StorageResolution"}
            assert 1 <= len(metric["Name"]) <= 1024
            assert metric["Unit"] in UNITS
            assert type(root[metric["Name"]]) in (int, float)
    return root


METRICS = st.dictionaries(
    st.text(min_size=1, max_size=30),
    st.tuples(st.floats() | st.integers(), st.sampled_from(sorted(UNITS))),
    min_size=1,
    max_size=100,
)


class TestCloudWatch:
    def test_a_run(self) -> None:
        found = {root["stage"]: root for root in map(check_emf, logs.run_metrics(CARD, now=1.7e9))}
        assert set(found) == {"ingest", "train", "run"}, "what was reused or did not run has no figures"
        assert found["ingest"]["Seconds"] == 2.5
        assert found["ingest"]["Photographs"] == 30
        assert (found["train"]["Failed"], found["run"]["Failed"]) == (1, 1)
        assert found["run"]["Cost"] == 0.25
        assert found["train"]["left_out"] == ["HeldOutPSNR"]
        for root in found.values():
            assert root["preset"] == "demo+compact"
            assert (root["job"], root["scene"]) == ("harbour-1", "harbour")
            (directive,) = root["_aws"]["CloudWatchMetrics"]
            assert directive["Dimensions"] == [["stage", "preset"]]

    def test_a_bare_card(self) -> None:
        (line,) = logs.run_metrics({})
        assert check_emf(line)["preset"] == "default"

    @trying(deadline=None)
    @given(
        METRICS, st.text(min_size=1).filter(str.strip), st.dictionaries(st.text(), st.text() | st.integers())
    )
    def test_any_line(self, metrics: dict, stage: str, properties: dict) -> None:
        taken = {"stage", "_aws", "left_out"}
        if taken & set(metrics) or {*metrics, *taken} & set(properties):
            with pytest.raises(ParamsError, match="twice"):
                logs.emf(metrics, {"stage": stage}, properties)
            return
        line = logs.emf(metrics, {"stage": stage}, properties)
        root = check_emf(line)
        named = [m["Name"] for d in root["_aws"]["CloudWatchMetrics"] for m in d["Metrics"]]
        assert set(named) | set(root.get("left_out", [])) == set(metrics)

    @pytest.mark.parametrize(
        ("metrics", "dimensions", "properties"),
        [
            ({"Seconds": (1.0, "Seconds")}, {"job": "harbour-1"}, {}),
            ({"Seconds": (1.0, "Fortnights")}, {"stage": "sfm"}, {}),
            ({"Seconds": (1.0, "Seconds")}, {"stage": " "}, {}),
            ({"stage": (1.0, "Seconds")}, {"stage": "sfm"}, {}),
            ({"Seconds": (1.0, "Seconds")}, {"stage": "sfm"}, {"_aws": {}}),
            ({"Seconds": (1.0, "Seconds")}, {"stage": "sfm"}, {"Seconds": 2}),
            ({"_aws": (1.0, "Seconds")}, {"stage": "sfm"}, {}),
            ({"left_out": (1.0, "Seconds")}, {"stage": "sfm"}, {}),
            ({"Seconds": (1.0, "Seconds")}, {"stage": "sfm"}, {"left_out": []}),
            ({f"m{n}": (1.0, "None") for n in range(101)}, {"stage": "sfm"}, {}),
            ({}, {"stage": "sfm"}, {}),
            ({"": (1.0, "None")}, {"stage": "sfm"}, {}),
        ],
    )
    def test_refused(self, metrics: dict, dimensions: dict, properties: dict) -> None:
        with pytest.raises(ParamsError):
            logs.emf(metrics, dimensions, properties)

    def test_units_are_those_cloudwatch_has(self) -> None:
        assert len(UNITS) == 27
        assert {"Gigabytes", "Terabits/Second", "Count/Second", "Bits", "None"} <= UNITS


class Queue:
    def __init__(self, run_dirs: list[str]) -> None:
        self.jobs = [SimpleNamespace(run_dir=run_dir) for run_dir in run_dirs]
        self.asked: list[tuple] = []

    def counts(self) -> dict[str, float]:
        return {
            "queued": 3,
            "running": 1,
            "succeeded": 2,
            "failed": 1,
            "cancelled": 0,
            "oldest_queued_s": 12.5,
        }

    def list(self, states: tuple[str, ...] = (), limit: int = 100) -> list:
        self.asked.append(tuple(states))
        return self.jobs


class TestPrometheus:
    def test_jobs_and_stages(self, tmp_path: Path) -> None:
        seconds = [0.5, 30.0, 30.1, 99_999.0]
        roots = [tmp_path / "site" / "runs" / f"site-{n}" for n in range(len(seconds))]
        for root, value in zip(roots, seconds, strict=True):
            runcard.update_stage(root, "sfm", status="succeeded", seconds=value)
            runcard.update_stage(root, "train", status="failed", seconds=value)
            runcard.update_stage(root, "ingest", status="succeeded", seconds=value, reused_from="site-x")
        queue = Queue([*map(str, roots), "", str(tmp_path / "gone"), "a\0b"])
        families = self.read(logs.prometheus_text(queue))
        states = {s.labels["state"]: s.value for s in families["spaceport_jobs"].samples}
        assert states == {"queued": 3, "running": 1, "succeeded": 2, "failed": 1, "cancelled": 0}
        assert families["spaceport_oldest_queued_seconds"].samples[0].value == 12.5
        samples = families["spaceport_stage_seconds"].samples
        assert {s.labels["stage"] for s in samples} == {"sfm"}
        below = {s.labels["le"]: s.value for s in samples if s.name.endswith("_bucket")}
        assert below == {str(float(b)): sum(v <= b for v in seconds) for b in BUCKETS} | {"+Inf": 4}
        assert next(s.value for s in samples if s.name.endswith("_sum")) == pytest.approx(sum(seconds))
        assert queue.asked == [("succeeded", "failed")]

    def test_a_card_that_changed_is_read_again(self, tmp_path: Path) -> None:
        root = tmp_path / "site" / "runs" / "site-1"
        for value in (1.0, 5.0):
            runcard.update_stage(root, "sfm", status="succeeded", seconds=value)
            samples = self.read(logs.prometheus_text(Queue([str(root)])))["spaceport_stage_seconds"].samples
            assert next(s.value for s in samples if s.name.endswith("_sum")) == value

    def test_an_empty_queue(self) -> None:
        assert self.read(logs.prometheus_text(Queue([])))["spaceport_stage_seconds"].samples == []

    @staticmethod
    def read(text: bytes) -> dict:
        return {family.name: family for family in text_string_to_metric_families(text.decode())}


def test_stages_are_called_as_everywhere() -> None:
    assert set(CARD["stages"]) < set(STAGES)  # type: ignore[arg-type]
