"""Mail against a real mail server on loopback, and against a stand-in of SES."""

from __future__ import annotations

import email
import ssl
from email import policy
from email.message import EmailMessage
from pathlib import Path

import boto3
import pytest
from aiosmtpd.smtp import AuthResult, LoginPassword
from letters import Mailbox, certificate, letter, mail_server, mute_server, settings
from moto import mock_aws
from moto.ses.models import ses_backends

from spaceport_lab.jobs import Failure
from spaceport_lab.notify import mail
from spaceport_lab.notify.outcome import Outcome, Sender


def sender(port: int, **more: str) -> Sender:
    usual = {
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(port),
        "SMTP_SECURITY": "none",
        "NOTIFY_TIMEOUT": "30",
    }
    return mail.make_sender(settings(**(usual | more)))


def read(content: bytes) -> EmailMessage:
    return email.message_from_bytes(content, policy=policy.default)  # type: ignore[return-value]


def test_a_mail_arrives_as_text_and_html() -> None:
    box = Mailbox()
    with mail_server(box) as port:
        made = letter(failure=Failure("SL-220", "sfm", "Zürich: no pair fits"), run_dir="")
        assert sender(port)(made) == Outcome("sent")
    got = read(box.mails[0])
    assert (got["To"], got["From"]) == ("ada@example.org", "lab@example.com")
    assert got["Subject"] == "harbour could not be finished: SL-220 (job harbour-1)"
    assert got["Auto-Submitted"] == "auto-generated"
    assert "Zürich" in got.get_body(("plain",)).get_content()
    assert "<!doctype html>" in got.get_body(("html",)).get_content()


def test_a_second_try_is_the_same_mail() -> None:
    made = [mail.make_mail(letter(**v), settings()) for v in ({}, {}, {"id": 8}, {"created": 2.0})]
    ids = [m["Message-ID"] for m in made]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert ids[0].endswith("@example.com>")


@pytest.mark.parametrize("at", ["RCPT", "DATA"])
@pytest.mark.parametrize(
    ("answer", "state"), [("451 later", "later"), ("550 no such user", "never"), ("552 full", "never")]
)
def test_answers(at: str, answer: str, state: str) -> None:
    box = Mailbox(answer, at=at)
    with mail_server(box) as port:
        outcome = sender(port)(letter())
    assert (outcome.state, outcome.reason) == (state, answer)
    assert not box.mails


def test_no_server_at_all() -> None:
    with mute_server() as port:
        pass
    assert sender(port)(letter()).state == "later"


def test_a_server_that_says_nothing() -> None:
    with mute_server() as port:
        outcome = sender(port, NOTIFY_TIMEOUT="0.2")(letter())
    assert (outcome.state, "timed out" in outcome.reason) == ("later", True)


@pytest.mark.parametrize("address", ["ada@x.de\r\nBcc: eve@x.de", "ada@x.de,eve@x.de", "", "a@b\0"])
def test_an_address_that_is_more_than_one(address: str) -> None:
    box = Mailbox()
    with mail_server(box) as port:
        assert sender(port)(letter(address=address)).state == "never"
    assert box.tries == 0


class TestTls:
    @pytest.fixture
    def tls(self, tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
        return certificate(tmp_path, "127.0.0.1")

    @staticmethod
    def options(tls: tuple[ssl.SSLContext, Path], seen: list[object]) -> dict:
        def login(
            _server: object, _session: object, _envelope: object, _way: str, data: object
        ) -> AuthResult:
            seen.append(data)
            return AuthResult(success=data == LoginPassword(b"ada", b"hunter2hunter2"), handled=False)

        return {"tls_context": tls[0], "require_starttls": True, "authenticator": login}

    def test_starttls_and_login(self, tls: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
        trusting = ssl.create_default_context(cafile=tls[1])
        monkeypatch.setattr(mail.ssl, "create_default_context", lambda: trusting)
        box, seen = Mailbox(), []
        with mail_server(box, **self.options(tls, seen)) as port:
            more = {"SMTP_SECURITY": "starttls", "SMTP_USER": "ada"}
            assert sender(port, **more, SMTP_PASSWORD="hunter2hunter2")(letter()).state == "sent"
            refused = sender(port, **more, SMTP_PASSWORD="wrong")(letter())
        assert len(box.mails) == 1
        assert {data.password for data in seen} == {b"hunter2hunter2", b"wrong"}
        # A wrong password is not the receiver's fault: somebody mends it, and the mail goes out.
        assert refused.state == "later"
        assert "wrong" not in refused.reason

    def test_a_stranger_gets_neither_password_nor_mail(self, tls: tuple) -> None:
        box, seen = Mailbox(), []
        with mail_server(box, **self.options(tls, seen)) as port:
            made = sender(port, SMTP_SECURITY="starttls", SMTP_USER="ada", SMTP_PASSWORD="hunter2hunter2")
            outcome = made(letter())
        assert (outcome.state, "CERTIFICATE_VERIFY_FAILED" in outcome.reason) == ("later", True)
        assert (box.mails, seen) == ([], [])


class TestSes:
    @pytest.fixture(autouse=True)
    def _keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")

    @staticmethod
    def sender() -> Sender:
        return mail.make_sender(settings(MAIL="ses", SES_REGION="eu-central-1"))

    def test_a_verified_sender(self) -> None:
        with mock_aws():
            boto3.client("ses", region_name="eu-central-1").verify_email_identity(
                EmailAddress="lab@example.com"
            )
            assert self.sender()(letter()) == Outcome("sent")
            (sent,) = ses_backends["123456789012"]["eu-central-1"].sent_messages
        assert sent.source == "lab@example.com"
        assert set(sent.destinations) == {"ada@example.org"}
        assert "Auto-Submitted: auto-generated" in sent.raw_data

    def test_an_unverified_one_can_be_mended(self) -> None:
        with mock_aws():
            outcome = self.sender()(letter())
        assert (outcome.state, "MessageRejected" in outcome.reason) == ("later", True)

    def test_a_region_that_is_none(self) -> None:
        made = mail.make_sender(settings(MAIL="ses", SES_REGION="no region"))
        assert made(letter()).state == "later"
