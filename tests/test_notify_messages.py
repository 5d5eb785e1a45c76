"""What people read: right for every error there can be, and never anything but text."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st
from letters import letter, settings

from spaceport_lab import runcard
from spaceport_lab.errors import PhotosError
from spaceport_lab.jobs import Ask, Failure
from spaceport_lab.jobs.failures import from_exception
from spaceport_lab.notify import Message, compose, payload
from spaceport_lab.notify.messages import WORDS
from spaceport_lab.params import STAGES


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def caused() -> Exception:
    try:
        try:
            raise ValueError("the inner one")
        except ValueError as inner:
            raise RuntimeError("the outer one") from inner
    except RuntimeError as outer:
        return outer


BAD_ERRORS = {
    "no message": RuntimeError(),
    "no cause": RuntimeError("alone"),
    "a cause": caused(),
    "huge": RuntimeError("A" + "x" * 2_000_000 + "Z"),
    "bytes": RuntimeError(b"caf\xe9 \xff\xfe \x00"),
    "surrogates": RuntimeError("caf\udce9"),
    "header": RuntimeError("bad\r\nBcc: eve@example.org\r\n\r\n<script>"),
    "html": RuntimeError("<script>alert(1)</script><img src=x onerror=alert(2)>"),
    "link": RuntimeError('see https://evil.example/"onmouseover="x and javascript:alert(1)'),
    "colours": RuntimeError("\x1b[31mred\x1b[0m \x07 \u202egnirts"),
    "no text": Unspeakable(),
    "secret": RuntimeError("https://ada:hunter2hunter2@host/ Authorization: Bearer hunter2hunter2"),
    "empty failure": None,
}


class Tags(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def check(message: Message) -> None:
    """What holds for every message."""
    assert message.subject == " ".join(message.subject.split())
    assert 0 < len(message.subject) < 200
    for part in (message.subject, message.text, message.html):
        part.encode()
        assert not any(ord(c) < 32 and c != "\n" for c in part)
        assert "hunter2" not in part
    assert max(map(len, message.text.splitlines())) <= 3000
    assert len(message.text) < 12_000
    assert len(message.html) < 30_000
    page = Tags(message.html)
    names = {tag for tag, _ in page.seen}
    assert names <= {"html", "head", "meta", "body", "p", "table", "tr", "td", "h2", "pre", "a"}
    for tag, attributes in page.seen:
        assert not any(name.startswith("on") for name in attributes)
        assert set(attributes) <= {"style", "href", "lang", "charset"}
        if tag == "a":
            assert str(attributes["href"]).startswith(("https://", "http://"))


@pytest.mark.parametrize("kind", BAD_ERRORS)
def test_the_table_of_bad_errors(kind: str) -> None:
    error = BAD_ERRORS[kind]
    failure = None if error is None else from_exception(error)[0]
    message = compose(letter(failure=failure), settings())
    check(message)
    assert "SL-000" in message.subject
    assert "What happened:" in message.text
    assert "What to do first:" in message.text


def test_each_bad_error_says_what_it_can() -> None:
    said = {
        k: compose(letter(failure=from_exception(e)[0]), settings()).text for k, e in BAD_ERRORS.items() if e
    }
    assert "the outer one" in said["a cause"]
    assert "the inner one" in said["a cause"]
    assert "bytes left out" in said["huge"]
    assert "caf" in said["bytes"]
    assert "alert(1)" in said["html"]
    assert not any(line.startswith("Bcc") for line in said["header"].splitlines())
    assert "red" in said["colours"]
    assert "[31m" not in said["colours"]


HOSTILE = {
    "huge": "A" + "x" * 100_000 + "Z",
    "bytes": b"caf\xe9 \xff\x00",
    "surrogates": "caf\udce9",
    "html": "<script>alert(1)</script>",
    "lines": "a\r\nBcc: eve@example.org\u2028\x85b",
    "secret": "password=hunter2hunter2",
    "nothing": None,
    "number": 3,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_whatever_was_not_cleaned_before(run: Path, kind: str) -> None:
    """Straight into job and run card, as if nobody had looked at it."""
    value = HOSTILE[kind]
    failure = Failure(*[value] * 5)  # type: ignore[arg-type]
    if not isinstance(value, bytes):
        (run / "run.json").write_text(
            json.dumps({"scene": value, "seconds": value, "cost": value, "stages": value})
        )
    for at in (str(run), ""):
        for word in ("succeeded", "failed"):
            made = letter(word, run_dir=at, failure=failure, name=f"x{value!s:.50}")
            check(compose(made, settings(PUBLIC_URL="https://lab.example.com")))
            json.dumps(payload(made, settings()), allow_nan=False).encode()


@trying(max_examples=60, deadline=None)
@given(st.text(), st.text(), st.text(), st.text(), st.text())
def test_whatever_a_failure_holds(code: str, stage: str, message: str, hint: str, log: str) -> None:
    # Straight into the dataclass, past whatever cleaned it before.
    made = letter(failure=Failure(code, stage, message, hint, log), name="a\r\nBcc: x@y.de")
    check(compose(made, settings()))
    json.dumps(payload(made, settings()), allow_nan=False).encode()


def test_an_error_of_ours_in_full() -> None:
    error = PhotosError("too few photographs", got=2, expected="3 at the least", hint="fly once more")
    failure = from_exception(error)[0]
    failure = Failure(failure.code, "ingest", failure.message, failure.hint)
    message = compose(letter(failure=failure), settings(ERRORS_URL="https://docs.example.com/errors"))
    assert message.subject == "harbour could not be finished: SL-210 (job harbour-1)"
    assert "while checking the photographs (ingest)" in message.text
    assert "too few photographs" in message.text
    assert "fly once more" in message.text
    assert "https://docs.example.com/errors#sl-210" in message.text
    assert 'href="https://docs.example.com/errors#sl-210"' in message.html
    assert "hostile archive" in message.text  # what errors.py says of the code
    check(message)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "mound" / "runs" / "harbour-1"
    metrics = {"psnr_heldout": 28.34}

    def fill(card: dict) -> None:
        card.update(
            seconds=3725.0, status="succeeded", stages={"inspect": {"seconds": 3725.0, "metrics": metrics}}
        )
        runcard.price(card, 1.408)

    runcard.update(root, fill)
    (root / "logs").mkdir()
    (root / "logs" / "03_train.log").write_bytes(
        b"begin\n" + b"".join(b"line %d\n" % i for i in range(5000)) + b"\xff end"
    )
    (root / "report.html").write_text("report")
    return root


def test_success_says_what_a_person_wants_to_know(run: Path) -> None:
    ask = Ask(source="s3://flights/mound", output="s3://results/runs/")
    made = letter("succeeded", run_dir=str(run), ask=ask, state="succeeded", failure=None, attempt=2)
    message = compose(made, settings(PUBLIC_URL="https://lab.example.com/"))
    check(message)
    assert message.subject == "mound is ready (job harbour-1)"
    told = ("1 h 2 min", "$1.46 at $1.408 an hour", "28.3 dB", "s3://results/runs/harbour-1/", "report.html")
    for words in (*told, "s3://flights/mound", "https://lab.example.com/#harbour-1", "Attempts"):
        assert words in message.text, words
        assert words in Tags(message.html).text, words
    assert "What happened" not in message.text


def test_the_last_lines_of_the_log(run: Path) -> None:
    message = compose(letter(run_dir=str(run), failure=Failure("SL-500", "train", "died")), settings())
    assert "line 4999" in message.text
    assert "\N{REPLACEMENT CHARACTER} end" in message.text
    assert "begin" not in message.text
    assert message.text.count("  | ") == 15
    check(message)


def test_a_failure_cannot_name_a_file_elsewhere(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.log"
    other.write_text("of another customer")
    (run / "logs" / "link.log").symlink_to(other)
    for log in (
        str(other),
        str(run / ".." / ".." / ".." / ".." / "other.log"),
        str(run / "logs" / "link.log"),
        "\0.log",
    ):
        message = compose(
            letter(run_dir=str(run), failure=Failure("SL-500", "", "died", log=log)), settings()
        )
        assert "of another customer" not in message.text


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"stages": 3, "seconds": "x", "cost": null}', '{"stages": {"inspect": 1}}']
)
def test_any_run_card_will_do(run: Path, text: str) -> None:
    (run / "run.json").write_text(text)
    for kind in ("succeeded", "failed"):
        check(compose(letter(kind, run_dir=str(run)), settings()))


def test_a_webhook_tells_neither_our_paths_nor_addresses_of_people(run: Path) -> None:
    failure = Failure("SL-500", "train", f"cannot write {run}/03_train/splat.ply", log=str(run / "logs"))
    ask = Ask(
        source="/flights/secret-place", email="ada@example.org", webhook="https://hooks.example.com/key"
    )
    told = json.dumps(payload(letter(run_dir=str(run), failure=failure, ask=ask), settings()))
    for private in (str(run.parents[2]), "ada@example.org", "secret-place", "hooks.example.com"):
        assert private not in told
    assert json.loads(told)["type"] == "job.failed"
    assert json.loads(told)["data"]["failure"]["code"] == "SL-500"


def test_every_stage_has_words() -> None:
    assert set(WORDS) == set(STAGES)
