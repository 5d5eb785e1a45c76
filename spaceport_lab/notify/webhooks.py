"""Signed webhooks after the Standard Webhooks scheme: webhook-id, webhook-timestamp, webhook-signature.

The connection goes to the IP address that was judged, while TLS and the Host header keep the name: a name
that changes its address after it was judged gains nothing. No redirect is followed, and no proxy of the
environment is used, for either would choose another address.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import ipaddress
import json
import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

from pydantic import SecretStr

from spaceport_lab import __version__
from spaceport_lab.errors import InputError, NotAllowedError
from spaceport_lab.jobs.model import Letter
from spaceport_lab.notify.messages import payload
from spaceport_lab.notify.outcome import Outcome, Sender
from spaceport_lab.notify.settings import NotifySettings, secret_bytes

WAIT_MORE = (408, 425, 429)
"""Answers below 500 that ask for another try; all others below 500 are final."""


def make_sender(
    settings: NotifySettings,
    resolve: Callable[[str], str],
    *,
    verify: ssl.SSLContext | bool = True,
    clock: Callable[[], float] = time.time,
) -> Sender:
    """What posts a letter to its webhook.

    Args:
        settings: with the secret.
        resolve: gives the IP address to connect to, as text. NotAllowedError from it buries the letter,
            OSError postpones it.
        verify: certificates to trust.
        clock: Unix seconds, for the timestamp.

    Raises:
        InputError: httpx is not installed.
    """
    try:
        import httpx
    except ImportError as error:
        raise InputError("webhooks need httpx", hint="pip install 'spaceport-lab[serve]'") from error

    def send(letter: Letter) -> Outcome:
        try:
            place = httpx.URL(letter.address)
            pinned = place.copy_with(host=str(ipaddress.ip_address(resolve(letter.address))))
        except (NotAllowedError, httpx.InvalidURL) as error:
            return Outcome("never", getattr(error, "what", str(error)))
        except (OSError, ValueError) as error:
            return Outcome("later", f"{type(error).__name__}: {error}")
        body = json.dumps(payload(letter, settings)).encode()
        headers = signed_headers(letter, body, settings.webhook_secret, clock())
        try:
            with (
                httpx.Client(
                    verify=verify, timeout=settings.timeout_s, follow_redirects=False, trust_env=False
                ) as client,
                client.stream(
                    "POST",
                    pinned,
                    content=body,
                    headers={"Host": place.netloc.decode("ascii"), **headers},
                    extensions={"sni_hostname": place.host},
                ) as answer,
            ):
                # The body of the answer is nobody's business, and is not read.
                return _judged(answer.status_code, answer.headers.get("retry-after", ""), clock())
        except httpx.HTTPError as error:
            return Outcome("later", f"{type(error).__name__}: {error}")

    return send


def signed_headers(letter: Letter, body: bytes, secret: SecretStr, now: float) -> dict[str, str]:
    """The headers of a webhook; its id is the same at each try, time and signature are not."""
    name, stamp = message_id(letter), str(int(now))
    return {
        "Content-Type": "application/json",
        "User-Agent": f"spaceport-lab/{__version__}",
        "webhook-id": name,
        "webhook-timestamp": stamp,
        "webhook-signature": sign(name, stamp, body, secret),
    }


def sign(name: str, stamp: str, body: bytes, secret: SecretStr) -> str:
    """`v1,` and the base64 of HMAC-SHA256 over id, timestamp and body, with dots between."""
    digest = hmac.new(secret_bytes(secret), f"{name}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def message_id(letter: Letter) -> str:
    """Of the letter alone."""
    key = f"{letter.id} {letter.kind} {letter.job.name} {letter.job.created} {letter.address}"
    return f"msg_{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def _judged(status: int, retry_after: str, now: float) -> Outcome:
    if 200 <= status < 300:
        return Outcome("sent")
    if 300 <= status < 400:
        return Outcome("never", f"answered {status}: a redirect is not followed")
    if status >= 500 or status in WAIT_MORE:
        return Outcome("later", f"answered {status}", _seconds(retry_after, now))
    return Outcome("never", f"answered {status}")


def _seconds(retry_after: str, now: float) -> float:
    """[s] that a Retry-After header asks for, as a number or as a date; 0 when it says nothing usable."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        moment: Any = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, moment.timestamp() - now)
