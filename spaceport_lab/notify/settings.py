"""How messages go out: settings from the environment, secrets kept out of everything that is shown."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from email.headerregistry import Address
from typing import Literal
from urllib.parse import urlsplit

import pydantic
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from spaceport_lab.errors import ParamsError

PREFIX = "whsec_"
"""How a secret of the Standard Webhooks scheme begins."""

VARIABLES = {
    "mail": "SPACEPORT_MAIL",
    "mail_from": "SPACEPORT_MAIL_FROM",
    "smtp_host": "SPACEPORT_SMTP_HOST",
    "smtp_port": "SPACEPORT_SMTP_PORT",
    "smtp_security": "SPACEPORT_SMTP_SECURITY",
    "smtp_user": "SPACEPORT_SMTP_USER",
    "smtp_password": "SPACEPORT_SMTP_PASSWORD",
    "ses_region": "SPACEPORT_SES_REGION",
    "webhook_secret": "SPACEPORT_WEBHOOK_SECRET",
    "public_url": "SPACEPORT_PUBLIC_URL",
    "errors_url": "SPACEPORT_ERRORS_URL",
    "timeout_s": "SPACEPORT_NOTIFY_TIMEOUT",
    "give_up_days": "SPACEPORT_NOTIFY_DAYS",
}
"""Setting → the variable it is read from."""


class NotifySettings(BaseModel):
    """How messages go out. Frozen, and an unknown name is an error.

    Attributes:
        mail: smtp, ses (through boto3) or none.
        mail_from: the sender, one plain address.
        smtp_host: mail server.
        smtp_port: 587 for STARTTLS, 465 for TLS from the first byte.
        smtp_security: starttls, tls or none; none can be read by anybody, and is refused with a user.
        smtp_user, smtp_password: login; no user: none.
        ses_region: of SES; empty: as boto3 finds it.
        webhook_secret: `whsec_` and 24 to 64 random bytes in base64; empty: no webhooks.
        public_url: where the service's page is seen from outside, for links.
        errors_url: where docs/errors.md can be read, for links.
        timeout_s: [s] for each answer of a mail server or webhook.
        give_up_days: [days] after the job's end at which a message that cannot be sent becomes a dead letter.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mail: Literal["smtp", "ses", "none"] = "none"
    mail_from: str = ""
    smtp_host: str = ""
    smtp_port: int = Field(587, ge=1, le=65535)
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    smtp_user: str = ""
    smtp_password: SecretStr = SecretStr("")
    ses_region: str = ""
    webhook_secret: SecretStr = SecretStr("")
    public_url: str = ""
    errors_url: str = ""
    timeout_s: float = Field(15.0, gt=0, le=60)
    give_up_days: float = Field(3.0, gt=0, le=30)

    @field_validator("mail_from")
    @classmethod
    def _one_address(cls, value: str) -> str:
        if value and not is_address(value):
            raise ValueError("must be one plain address such as spaceport@example.com")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _strong(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and not 24 <= len(secret_bytes(value)) <= 64:
            raise ValueError(f"must be {PREFIX} and 24 to 64 bytes in base64")
        return value

    @field_validator("public_url", "errors_url")
    @classmethod
    def _web_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname or not value.isprintable()):
            raise ValueError("must be an address such as https://lab.example.com")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _complete(self) -> NotifySettings:
        if self.mail != "none" and not self.mail_from:
            raise ValueError(f"mail needs a sender: set {VARIABLES['mail_from']}")
        if self.mail == "smtp" and not self.smtp_host:
            raise ValueError(f"mail needs a server: set {VARIABLES['smtp_host']}")
        if self.smtp_user and self.smtp_security == "none":
            raise ValueError("a password is not sent over a connection that anybody can read")
        return self


def load(environment: Mapping[str, str] = os.environ) -> NotifySettings:
    """Settings from the environment; SPACEPORT_SMTP_HOST alone means mail by SMTP.

    Raises:
        ParamsError: a value cannot be used. It names the variable, and never the value of a secret.
    """
    given = {name: environment[variable] for name, variable in VARIABLES.items() if environment.get(variable)}
    if "mail" not in given and given.get("smtp_host"):
        given["mail"] = "smtp"
    try:
        return NotifySettings.model_validate(given)
    except pydantic.ValidationError as error:
        # The values themselves are not repeated: one of them may be the secret, in the wrong variable.
        faults = {VARIABLES.get(str((*e["loc"], "")[0]), "settings"): e["msg"] for e in error.errors()}
        raise ParamsError(
            "messages cannot be sent with these settings",
            got="; ".join(f"{name}: {text.removeprefix('Value error, ')}" for name, text in faults.items()),
            hint="see docs/laptop.md, or unset them: jobs run without messages too",
        ) from None


def secret_bytes(secret: SecretStr) -> bytes:
    """The key inside a webhook secret; empty when it is not base64."""
    try:
        return base64.b64decode(secret.get_secret_value().removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return b""


def is_address(text: str) -> bool:
    """Whether `text` is one plain mail address: no name, no comment, no line break, no list."""
    try:
        parsed = Address(addr_spec=text)
    except Exception:  # the parser has errors of many kinds for what is no address
        return False
    plain = parsed.addr_spec == text and text.isprintable() and not set(text) & set(' ,;:"<>()[]\\')
    return plain and bool(parsed.username and parsed.domain) and len(text) <= 254
