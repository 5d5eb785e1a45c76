"""Jobs and letters by hand, and what stands on the other side: a mail server, a web server, a certificate."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from spaceport_lab.jobs import Ask, Failure, Job, Letter, Store
from spaceport_lab.notify import NotifySettings, load

SECRET = "whsec_" + "c3BhY2Vwb3J0LWxhYi10ZXN0LWtleSEh"


def settings(**variables: str) -> NotifySettings:
    """Settings from the environment, and from nothing else."""
    given = {"SPACEPORT_MAIL_FROM": "lab@example.com", "SPACEPORT_WEBHOOK_SECRET": SECRET}
    return load(given | {f"SPACEPORT_{name}": value for name, value in variables.items()})


def job(**values: Any) -> Job:
    """A job that failed, unless said otherwise."""
    usual: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
    usual |= {"name": "harbour-1", "ask": Ask(source="/flights/harbour"), "state": "failed", "run_dir": ""}
    usual |= {"created": 1e9, "started": 1e9, "ended": 1e9 + 100, "failure": Failure()}
    usual |= {"attempt": 1, "max_attempts": 3, "token": 1}
    return Job(**(usual | values))


def letter(
    kind: str = "failed", channel: str = "email", address: str = "ada@example.org", **values: Any
) -> Letter:
    """A letter about such a job."""
    return Letter(values.pop("id", 7), job(**values), kind, channel, address, 0, 0.0)  # type: ignore[arg-type]


def ended(store: Store, state: str = "failed", failure: Failure | None = None, **ask: str) -> str:
    """A job of the store that has ended; its name."""
    made, _ = store.submit(Ask(source="/flights/harbour", **ask))
    claimed = store.claim("w", 60.0)
    assert claimed is not None
    assert claimed.name == made.name
    assert store.finish(
        claimed, state, (failure or Failure("SL-220", "sfm", "no pair fits")) if state == "failed" else None
    )
    return made.name


class Mailbox:
    """A mail server's other half: answers `answers` one after another, then 250, and keeps what it took."""

    def __init__(self, *answers: str, at: str = "DATA") -> None:
        self.answers, self.at = list(answers), at
        self.tries = 0
        self.mails: list[bytes] = []

    def _answer(self) -> str | None:
        self.tries += 1
        return self.answers.pop(0) if self.answers else None

    async def handle_RCPT(
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if self.at == "RCPT" and (answer := self._answer()):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        if self.at == "DATA" and (answer := self._answer()):
            return answer
        self.mails.append(envelope.content)
        return "250 OK"


@contextlib.contextmanager
def mail_server(handler: Mailbox, **options: Any) -> Iterator[int]:
    """The port of a mail server on loopback."""
    controller = Controller(handler, hostname="127.0.0.1", port=free_port(), **options)
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


@contextlib.contextmanager
def mute_server() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


class WebServer:
    """Answers each POST with what `answer` says (status and headers), and keeps what came."""

    def __init__(
        self, answer: Callable[[int], tuple[int, dict[str, str]]], tls: ssl.SSLContext | None = None
    ) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status, headers = answer(len(outer.requests))
                self.send_response(status)
                for name, value in ({"Content-Length": "0"} | headers).items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]

    def __enter__(self) -> WebServer:
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()


def certificate(folder: Path, *names: str) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for these names, and the certificate to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(
        subject, subject, key.public_key(), x509.random_serial_number(), now - day, now + day
    )
    signed = builder.add_extension(
        x509.SubjectAlternativeName([_name(name) for name in names]), critical=False
    ).sign(key, hashes.SHA256())
    cert, secret = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, secret)
    return context, cert


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
