"""Signed webhooks: an independent check of the signature, and a web server with every kind of answer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
from pathlib import Path

import pytest
from letters import SECRET, WebServer, certificate, letter, mute_server, settings

from spaceport_lab.errors import NotAllowedError
from spaceport_lab.notify import webhooks
from spaceport_lab.notify.outcome import Outcome, Sender


def sender(**more: str) -> Sender:
    return webhooks.make_sender(
        settings(**({"NOTIFY_TIMEOUT": "30"} | more)), lambda _url: "127.0.0.1", clock=lambda: 1_700_000_000.9
    )


def post(port: int, path: str = "/hook?x=1", **more: str) -> Outcome:
    # The name is nobody's: it can only be reached because the address was given.
    return sender(**more)(letter(channel="webhook", address=f"http://hooks.example.com:{port}{path}"))


def verified(headers: dict[str, str], body: bytes, secret: str) -> bool:
    """The receiver's side, written from the scheme's description."""
    key = base64.b64decode(secret.split("_", 1)[1])
    content = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    right = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    given = [entry.split(",", 1) for entry in headers["webhook-signature"].split(" ")]
    return any(version == "v1" and hmac.compare_digest(value, right) for version, value in given)


def test_a_webhook_is_signed() -> None:
    with WebServer(lambda _n: (204, {})) as server:
        assert post(server.port) == Outcome("sent")
        assert post(server.port) == Outcome("sent")
    (path, headers, body), (_, again, _) = server.requests
    assert path == "/hook?x=1"
    assert headers["host"] == f"hooks.example.com:{server.port}"
    assert headers["webhook-timestamp"] == "1700000000"
    assert headers["content-type"] == "application/json"
    assert verified(headers, body, SECRET)
    assert not verified(headers, body + b" ", SECRET)
    assert not verified(headers, body, "whsec_" + base64.b64encode(b"x" * 24).decode())
    assert headers["webhook-id"] == again["webhook-id"]
    assert "." not in headers["webhook-id"]
    assert json.loads(body)["type"] == "job.failed"


def test_the_example_of_the_scheme() -> None:
    """Secret, message and signature as the scheme's description has them."""
    from pydantic import SecretStr

    secret = SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = webhooks.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}', secret)
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("status", "state"),
    [(200, "sent"), (204, "sent"), (302, "never"), (307, "never"), (400, "never"), (401, "never"),
     (404, "never"), (410, "never"), (408, "later"), (425, "later"), (429, "later"), (500, "later"),
     (503, "later")],
)  # fmt: skip
def test_answers(status: int, state: str) -> None:
    with WebServer(lambda _n: (status, {})) as server:
        assert post(server.port).state == state
    assert len(server.requests) == 1


def test_a_redirect_is_not_followed() -> None:
    with (
        WebServer(lambda _n: (200, {})) as inside,
        WebServer(lambda _n: (307, {"Location": f"http://127.0.0.1:{inside.port}/secret"})) as server,
    ):
        outcome = post(server.port)
    assert (outcome.state, "redirect" in outcome.reason) == ("never", True)
    assert inside.requests == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("120", 120.0), ("", 0.0), ("-5", 0.0), ("soon", 0.0), ("9" * 400, 999999999.0), ("١٢", 0.0),
     ("Tue, 14 Nov 2023 22:15:20 GMT", 119.1), ("Tue, 14 Nov 2000 22:15:20 GMT", 0.0)],
)  # fmt: skip
def test_how_long_to_wait(text: str, seconds: float) -> None:
    assert webhooks._judged(503, text, 1_700_000_000.9).after_s == pytest.approx(seconds)


def test_what_hangs_or_is_gone_is_tried_again() -> None:
    with mute_server() as port:
        assert post(port, NOTIFY_TIMEOUT="0.2").state == "later"
    assert post(port).state == "later"


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with WebServer(lambda _n: (200, {})) as proxy, WebServer(lambda _n: (200, {})) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        assert post(server.port).state == "sent"
    assert (len(proxy.requests), len(server.requests)) == (0, 1)


@pytest.mark.parametrize(
    ("raised", "state"), [(NotAllowedError("not on the list"), "never"), (OSError("no such name"), "later")]
)
def test_the_address_is_judged_at_each_try(raised: Exception, state: str) -> None:
    def resolve(url: str) -> str:
        assert url == "https://hooks.example.com/x"
        raise raised

    made = webhooks.make_sender(settings(), resolve)
    outcome = made(letter(channel="webhook", address="https://hooks.example.com/x"))
    assert outcome.state == state


@pytest.mark.parametrize("answer", ["hooks.example.com", "", "127.0.0.1/x", "2130706433"])
def test_only_an_ip_address_is_connected_to(answer: str) -> None:
    made = webhooks.make_sender(settings(), lambda _url: answer)
    assert made(letter(channel="webhook", address="https://hooks.example.com/x")).state == "later"


@pytest.mark.parametrize("name", ["hooks.example.com", "other.example.com"])
def test_tls_is_checked_against_the_name_not_the_address(name: str, tmp_path: Path) -> None:
    """Who answers at the address must prove the name; a certificate for the address itself proves nothing."""
    context, trusted = certificate(tmp_path, name, "127.0.0.1")
    verify = ssl.create_default_context(cafile=trusted)
    made = webhooks.make_sender(settings(NOTIFY_TIMEOUT="30"), lambda _url: "127.0.0.1", verify=verify)
    with WebServer(lambda _n: (200, {}), context) as server:
        outcome = made(letter(channel="webhook", address=f"https://hooks.example.com:{server.port}/x"))
    assert outcome.state == ("sent" if name == "hooks.example.com" else "later")
    assert len(server.requests) == (name == "hooks.example.com")
