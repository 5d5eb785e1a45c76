"""From the queue's outbox to mail and web servers: each letter once, whatever fails on the way."""

from __future__ import annotations

import email.policy
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from letters import Mailbox, WebServer, ended, mail_server, settings

from spaceport_lab.errors import QueueError
from spaceport_lab.jobs import Ask, Failure, Store
from spaceport_lab.jobs.worker import Worker
from spaceport_lab.notify import Outcome, deliver_due, loop, mail, make_senders, webhooks
from spaceport_lab.notify.deliver import LONGEST_DELAY_S, delay


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    return Store(tmp_path / "jobs.db", clock=clock)


def by_mail(port: int) -> dict:
    made = settings(SMTP_HOST="127.0.0.1", SMTP_PORT=str(port), SMTP_SECURITY="none", NOTIFY_TIMEOUT="30")
    return {"email": mail.make_sender(made)}


def states(store: Store, name: str) -> list[tuple[str, str]]:
    return [(row["channel"], row["state"]) for row in store.post(name)]


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_a_server_down_three_times(store: Store, clock: Clock, state: str) -> None:
    name = ended(store, state, email="ada@example.org")
    before = store.get(name)
    box = Mailbox(*["451 out of order"] * 3)
    with mail_server(box) as port:
        for waited in (60.0, 120.0, 240.0):
            assert deliver_due(store, by_mail(port), clock.now) == {"postponed": 1}
            assert store.get(name) == before
            clock.now += waited - 1
            assert deliver_due(store, by_mail(port), clock.now) == {}
            clock.now += 1
        assert deliver_due(store, by_mail(port), clock.now) == {"sent": 1}
        clock.now += 86400
        assert deliver_due(store, by_mail(port), clock.now) == {}
    assert (box.tries, len(box.mails)) == (4, 1)
    subject = email.message_from_bytes(box.mails[0], policy=email.policy.default)["Subject"].strip()
    assert subject.startswith("harbour is ready" if state == "succeeded" else "harbour could not be finished")
    assert store.get(name) == before
    assert before.state == state


def test_no_such_user_is_a_dead_letter_with_its_reason(store: Store, clock: Clock) -> None:
    name = ended(store, email="nobody@example.org")
    before = store.get(name)
    box = Mailbox("550 no such user here")
    with mail_server(box) as port:
        assert deliver_due(store, by_mail(port), clock.now) == {"buried": 1}
        clock.now += 86400
        assert deliver_due(store, by_mail(port), clock.now) == {}
    (row,) = store.post(name)
    assert (row["state"], row["error"]) == ("dead", "550 no such user here")
    assert (box.tries, box.mails) == (1, [])
    assert store.get(name) == before


def test_webhooks_from_500_to_done_and_410(store: Store, clock: Clock) -> None:
    names = [ended(store, webhook=f"https://hooks.example.com/{path}") for path in ("flaky", "gone")]
    answers = {"/flaky": [500, 500, 200], "/gone": [410]}

    with WebServer(lambda _n: (answers[server.requests[-1][0]].pop(0), {})) as server:
        pinned = webhooks.make_sender(settings(), lambda _url: "127.0.0.1")
        senders = {"webhook": lambda letter: pinned(_at_home(letter, server.port))}
        assert deliver_due(store, senders, clock.now, limit=1) == {"postponed": 1}
        assert deliver_due(store, senders, clock.now, limit=1) == {"buried": 1}
        clock.now += 60
        assert deliver_due(store, senders, clock.now) == {"postponed": 1}
        clock.now += 120
        assert deliver_due(store, senders, clock.now) == {"sent": 1}
    assert [states(store, name) for name in names] == [[("webhook", "sent")], [("webhook", "dead")]]
    ids = [headers["webhook-id"] for path, headers, _ in server.requests if path == "/flaky"]
    assert len(ids) == 3
    assert len(set(ids)) == 1


def _at_home(letter, port: int):
    """The same letter to a server without TLS on this machine."""
    import dataclasses

    return dataclasses.replace(
        letter,
        address=letter.address.replace("https://hooks.example.com", f"http://hooks.example.com:{port}"),
    )


def test_a_receiver_that_asks_for_time_gets_it(store: Store, clock: Clock) -> None:
    ended(store, email="ada@example.org")
    assert deliver_due(store, {"email": lambda _l: Outcome("later", "busy", after_s=3600)}, clock.now) == {
        "postponed": 1
    }
    clock.now += 3599
    assert store.letters() == []
    clock.now += 1
    assert len(store.letters()) == 1


def test_after_days_a_letter_is_given_up(store: Store, clock: Clock) -> None:
    name = ended(store, email="ada@example.org")
    tries = 0
    while states(store, name) == [("email", "due")]:
        deliver_due(store, {"email": lambda _l: Outcome("later", "451 no")}, clock.now, give_up_days=3)
        clock.now += 3600
        tries += 1
        assert tries < 100
    assert 72 <= tries <= 80
    assert store.post(name)[0]["error"] == "given up after 3 days: 451 no"


def test_one_that_hangs_and_one_that_breaks_stop_nobody(store: Store, clock: Clock) -> None:
    names = {who: ended(store, email=f"{who}@example.org") for who in ("hangs", "breaks", "fine")}
    released = threading.Event()

    def send(letter) -> Outcome:
        if letter.address.startswith("hangs"):
            released.wait(30)
        if letter.address.startswith("breaks"):
            raise ZeroDivisionError("token=hunter2hunter2")
        return Outcome("sent")

    counts = deliver_due(store, {"email": send}, clock.now, deadline_s=3.0)
    released.set()
    assert counts == {"sent": 1, "postponed": 2}
    errors = {who: store.post(name)[0]["error"] for who, name in names.items()}
    assert errors["hangs"] == "no end after 3 s"
    assert errors["breaks"] == "ZeroDivisionError: token=***"
    assert states(store, names["fine"]) == [("email", "sent")]


def test_a_channel_that_is_not_set_up_waits_for_it(store: Store, clock: Clock) -> None:
    name = ended(store, email="ada@example.org")
    for _ in range(8):
        assert deliver_due(store, {}, clock.now) == {"postponed": 1}
        clock.now += 900
    assert deliver_due(store, {"email": lambda _l: Outcome("sent")}, clock.now) == {"sent": 1}
    assert states(store, name) == [("email", "sent")]


def test_two_deliverers_send_each_letter_once(store: Store, tmp_path: Path, clock: Clock) -> None:
    for _ in range(30):
        ended(store, email="ada@example.org", webhook="https://hooks.example.com/x")
    seen: list[int] = []

    def send(letter) -> Outcome:
        seen.append(letter.id)
        time.sleep(0.001)
        return Outcome("sent")

    def work() -> None:
        mine = Store(tmp_path / "jobs.db", clock=clock)
        while deliver_due(mine, {"email": send, "webhook": send}, clock.now):
            pass

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == len(set(seen)) == 60


def test_the_loop_outlives_a_broken_store(store: Store) -> None:
    ended(store, email="ada@example.org")
    stop = threading.Event()
    asked = []

    class Flaky:
        def letters(self, limit: int = 20):
            asked.append(limit)
            if len(asked) < 3:
                raise QueueError("locked") if len(asked) == 1 else OSError("disk full")
            return store.letters(limit)

        def sent(self, letter) -> None:
            store.sent(letter)
            stop.set()

        postpone, bury = store.postpone, store.bury

    thread = threading.Thread(
        target=lambda: loop(Flaky(), {"email": lambda _l: Outcome("sent")}, stop, every_s=0.01)
    )
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert stop.is_set()


def test_what_the_last_job_left_is_sent_at_the_end(store: Store) -> None:
    stop = threading.Event()
    stop.set()
    name = ended(store, email="ada@example.org")
    loop(store, {"email": lambda _l: Outcome("sent")}, stop)
    assert states(store, name) == [("email", "sent")]


STUB = """
import json, pathlib, sys
spec = json.loads(pathlib.Path(sys.argv[1]).read_text())
failure = {"code": "SL-210", "stage": "ingest", "message": "too few photographs"}
pathlib.Path(spec["result"]).write_text(json.dumps({"ok": False, "failure": failure}))
raise SystemExit(1)
"""


def test_beside_a_worker(tmp_path: Path) -> None:
    """As the command line puts the two together: `worker --once` sends what its job has to say."""
    store = Store(tmp_path / "jobs.db")
    name = store.submit(Ask(source="/nowhere", email="ada@example.org"))[0].name
    seen = []

    def send(letter) -> Outcome:
        seen.append((letter.kind, letter.address, letter.job.failure.code))
        return Outcome("sent")

    beside = partial(loop, store, {"email": send}, every_s=600.0)
    worker = Worker(store, tmp_path, command=(sys.executable, "-c", STUB), beside=[beside])
    assert worker.run(once=True) == 1
    assert seen == [("failed", "ada@example.org", "SL-210")]
    assert states(store, name) == [("email", "sent")]


def test_delays_grow_and_end() -> None:
    waits = [delay(n) for n in range(40)]
    assert waits[:4] == [60, 120, 240, 480]
    assert waits == sorted(waits)
    assert max(waits) == LONGEST_DELAY_S


def test_senders_as_set_up() -> None:
    assert make_senders(settings(), None) == {}
    assert set(make_senders(settings(), lambda _u: "127.0.0.1")) == {"webhook"}
    assert set(make_senders(settings(SMTP_HOST="h"), None)) == {"email"}
    assert set(make_senders(settings(WEBHOOK_SECRET=""), lambda _u: "127.0.0.1")) == set()


def test_logs_name_no_receiver(store: Store, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    ended(store, email="ada@example.org", failure=Failure("SL-500"))
    refused = Outcome("later", "451 <ada@example.org>: come\r\nagain")
    deliver_due(store, {"email": lambda _l: refused}, clock.now)
    assert "451 <…>: come again" in caplog.text
    clock.now += 60
    deliver_due(store, {"email": lambda _l: Outcome("sent")}, clock.now)
    assert "sent" in caplog.text
    assert "ada@example.org" not in caplog.text
