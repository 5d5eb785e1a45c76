"""Mail by SMTP or by SES of AWS."""

from __future__ import annotations

import contextlib
import hashlib
import smtplib
import ssl
from collections.abc import Iterator
from email import policy
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any

from spaceport_lab.errors import InputError
from spaceport_lab.jobs.model import Letter
from spaceport_lab.notify.messages import compose
from spaceport_lab.notify.outcome import Outcome, Sender
from spaceport_lab.notify.settings import NotifySettings, is_address

SES_NEVER = ("BadRequestException", "ValidationException")
"""Answers of SES that another try would get as well. Others, such as an unverified sender, can be mended."""


def make_sender(settings: NotifySettings) -> Sender:
    """What sends a letter by mail, as the settings say.

    Raises:
        InputError: SES is asked for and boto3 is not installed.
    """
    if settings.mail == "ses":
        return _by_ses(settings)
    return lambda letter: _by_smtp(settings, letter)


def make_mail(letter: Letter, settings: NotifySettings) -> EmailMessage:
    """The mail for a letter, text and HTML; its Message-ID is the same at each try.

    Raises:
        ValueError: the address is not one plain address.
    """
    if not is_address(letter.address):
        raise ValueError("not one plain mail address")
    message = compose(letter, settings)
    mail = EmailMessage(policy=policy.SMTP)
    mail["From"] = settings.mail_from
    mail["To"] = letter.address
    mail["Subject"] = message.subject
    mail["Date"] = formatdate(letter.job.ended or letter.job.created)
    mail["Message-ID"] = message_id(letter, settings)
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: holiday notices do not answer it
    mail.set_content(message.text)
    mail.add_alternative(message.html, subtype="html")
    return mail


def message_id(letter: Letter, settings: NotifySettings) -> str:
    """Of the letter alone, so that a mail that was sent twice is known for one."""
    key = f"{letter.id} {letter.kind} {letter.job.name} {letter.job.created} {letter.address}"
    domain = settings.mail_from.rpartition("@")[2].encode("idna").decode() or "localhost"
    return f"<{hashlib.sha256(key.encode()).hexdigest()[:32]}@{domain}>"


def _by_smtp(settings: NotifySettings, letter: Letter) -> Outcome:
    try:
        mail = make_mail(letter, settings)
    except ValueError as error:
        return Outcome("never", str(error))
    try:
        with _connected(settings) as server:
            try:
                server.send_message(mail, settings.mail_from, [letter.address])
            except smtplib.SMTPRecipientsRefused as error:
                return _judged(*next(iter(error.recipients.values())))
            except smtplib.SMTPDataError as error:
                return _judged(error.smtp_code, error.smtp_error)
            except smtplib.SMTPNotSupportedError as error:
                return Outcome("never", f"the mail server cannot take this address: {error}")
    # What is wrong before it comes to the receiver (name, login, TLS, our own address) somebody can mend.
    except (OSError, ValueError) as error:  # smtplib's own errors are OSErrors
        return Outcome("later", f"{type(error).__name__}: {error}")
    return Outcome("sent")


@contextlib.contextmanager
def _connected(settings: NotifySettings) -> Iterator[smtplib.SMTP]:
    host, port, timeout = settings.smtp_host, settings.smtp_port, settings.timeout_s
    context = ssl.create_default_context()
    server = (
        smtplib.SMTP_SSL(host, port, timeout=timeout, context=context)
        if settings.smtp_security == "tls"
        else smtplib.SMTP(host, port, timeout=timeout)
    )
    try:
        if settings.smtp_security == "starttls":
            server.starttls(context=context)
        if settings.smtp_user:
            server.login(settings.smtp_user, settings.smtp_password.get_secret_value())
        yield server
        # The mail is theirs by now; a farewell that fails must not send it again.
        with contextlib.suppress(OSError):
            server.quit()
    finally:
        server.close()


def _judged(code: int, answer: bytes | str) -> Outcome:
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
    return Outcome("never" if 500 <= code < 600 else "later", f"{code} {text}")


def _by_ses(settings: NotifySettings) -> Sender:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise InputError("mail by SES needs boto3", hint="pip install 'spaceport-lab[aws]'") from error
    options = Config(
        connect_timeout=settings.timeout_s,
        read_timeout=settings.timeout_s,
        # The outbox tries again; two mechanisms would multiply.
        retries={"total_max_attempts": 1},
    )
    client: Any = None

    def send(letter: Letter) -> Outcome:
        nonlocal client
        try:
            mail = make_mail(letter, settings)
        except ValueError as error:
            return Outcome("never", str(error))
        try:
            client = client or boto3.client("sesv2", region_name=settings.ses_region or None, config=options)
            client.send_email(
                FromEmailAddress=settings.mail_from,
                Destination={"ToAddresses": [letter.address]},
                Content={"Raw": {"Data": mail.as_bytes()}},
            )
        except ClientError as error:
            said = error.response.get("Error", {})
            never = said.get("Code") in SES_NEVER
            return Outcome("never" if never else "later", f"{said.get('Code')}: {said.get('Message')}")
        except BotoCoreError as error:
            return Outcome("later", f"{type(error).__name__}: {error}")
        return Outcome("sent")

    return send
