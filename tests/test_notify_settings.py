"""Settings of messages: what is missing is named, secrets are shown nowhere."""

from __future__ import annotations

import traceback

import pytest
from letters import SECRET, settings

from spaceport_lab.errors import ParamsError
from spaceport_lab.notify import load
from spaceport_lab.notify.settings import VARIABLES, is_address, secret_bytes


def test_nothing_set_sends_nothing() -> None:
    assert load({}).mail == "none"


def test_a_server_alone_means_smtp() -> None:
    assert settings(SMTP_HOST="mail.example.com").mail == "smtp"
    assert settings(SMTP_HOST="mail.example.com", MAIL="none").mail == "none"


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"MAIL": "pigeon"}, "SPACEPORT_MAIL:"),
        ({"MAIL": "smtp"}, "SPACEPORT_SMTP_HOST"),
        ({"MAIL": "ses", "MAIL_FROM": ""}, "SPACEPORT_MAIL_FROM"),
        ({"SMTP_HOST": "h", "SMTP_PORT": "99999"}, "SPACEPORT_SMTP_PORT"),
        ({"SMTP_HOST": "h", "SMTP_USER": "u", "SMTP_SECURITY": "none"}, "anybody can read"),
        ({"MAIL_FROM": "Ada <ada@example.org>"}, "SPACEPORT_MAIL_FROM"),
        ({"MAIL_FROM": "a@b.de\r\nBcc: x@y.de"}, "SPACEPORT_MAIL_FROM"),
        ({"WEBHOOK_SECRET": "whsec_c2hvcnQ="}, "24 to 64 bytes"),
        ({"WEBHOOK_SECRET": "not base64!"}, "24 to 64 bytes"),
        ({"PUBLIC_URL": "javascript:alert(1)"}, "SPACEPORT_PUBLIC_URL"),
        ({"NOTIFY_TIMEOUT": "0"}, "SPACEPORT_NOTIFY_TIMEOUT"),
    ],
)
def test_what_cannot_be_used_is_named(variables: dict[str, str], named: str) -> None:
    with pytest.raises(ParamsError, match=named):
        settings(**variables)


def test_secrets_are_shown_nowhere() -> None:
    made = settings(SMTP_HOST="h", SMTP_USER="u", SMTP_PASSWORD="hunter2hunter2")
    for shown in (repr(made), str(made), f"{made.model_dump()}", made.model_dump_json()):
        assert "hunter2" not in shown
        assert SECRET[6:] not in shown
    assert secret_bytes(made.webhook_secret) == b"spaceport-lab-test-key!!"


def test_a_secret_in_the_wrong_variable_is_not_repeated() -> None:
    secret = "hunter2" * 2
    with pytest.raises(ParamsError) as caught:
        settings(SMTP_HOST="h", SMTP_PORT=secret, WEBHOOK_SECRET=secret)
    assert secret not in "".join(traceback.format_exception(caught.value))


def test_every_setting_has_its_variable() -> None:
    from spaceport_lab.notify import NotifySettings

    assert set(VARIABLES) == set(NotifySettings.model_fields)
    assert len(set(VARIABLES.values())) == len(VARIABLES)


@pytest.mark.parametrize("text", ["ada@example.org", "a.b+c@x.example.org", "ada@localhost"])
def test_addresses(text: str) -> None:
    assert is_address(text)


@pytest.mark.parametrize(
    "text",
    ["", "ada", "@x.de", "ada@", "a@b@c", "ada@x.de,bob@x.de", "ada@x.de\r\nBcc: bob@x.de", "ada@x.de\n",
     "<a@x.de>", "Ada <ada@x.de>", '"a b"@x.de', "ada@x.de\0", "ada @x.de", "ada@[127.0.0.1]",
     "a" * 250 + "@x.de", "a;b@x.de"],
)  # fmt: skip
def test_no_addresses(text: str) -> None:
    assert not is_address(text)
