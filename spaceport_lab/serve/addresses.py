"""Webhook addresses: which may be called, and to which IP address the call must then go.

A name is judged twice, when a job is asked for and when the message is sent, and the sender connects to the
address that was judged, so that a name that changes its address in between (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from spaceport_lab.errors import NotAllowedError
from spaceport_lab.serve.settings import ServeSettings

LONGEST_URL = 2000  # characters

Lookup = Callable[..., list[Any]]
"""What `socket.getaddrinfo` is."""

# A name, not a number: the last label has a letter, so that 2130706433, 0x7f.1 and 0177.1 are none.
_NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+(?=[a-z0-9-]*[a-z])(?!0x)[a-z0-9-]{2,63}")

_UNICAST6 = ipaddress.ip_network("2000::/3")
# What `is_global` of one version of Python or another lets through: the IETF's own assignments (a cloud has
# its metadata at 192.0.0.192), relays, and IPv6 forms that carry an IPv4 address of any kind.
_SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)


def check_webhook(url: str, settings: ServeSettings, lookup: Lookup = socket.getaddrinfo) -> str:
    """The IP address to connect to for this webhook.

    Args:
        url: where the message is to go.
        settings: with the allowed hosts.
        lookup: how names are looked up.

    Returns:
        The address that was judged; connect to that one, with the URL's host for TLS and `Host`.

    Raises:
        NotAllowedError: the form, the host or one of its addresses is refused; it stays so.
        OSError: the name cannot be looked up now.
    """
    host, port = check_webhook_form(url, settings)
    found = [str(entry[4][0]) for entry in lookup(host, port, type=socket.SOCK_STREAM)]
    if not found:
        raise OSError(f"{host} has no address")
    # One address inside is enough to refuse: which of them is connected to is then a matter of luck.
    for address in found:
        if not is_public(address):
            raise NotAllowedError(
                f"the webhook's host {host} has an address that is not public",
                expected="a host on the internet",
                hint="ask who runs this service",
            )
    return found[0]


def check_webhook_form(url: str, settings: ServeSettings) -> tuple[str, int]:
    """Host and port of a webhook whose form and host are allowed; nothing is looked up.

    Raises:
        NotAllowedError: it is not https, its host is not on the list, or it is written to mislead.
    """
    if not url or len(url) > LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise _refused("printable ASCII without spaces, not too long")
    if "\\" in url or "#" in url:
        raise _refused("no backslash and no fragment")
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError:
        raise _refused("a host, and a port that is a number") from None
    if parts.scheme != "https" or not url.startswith("https://"):
        raise _refused("https://")
    host = (parts.hostname or "").lower()
    if not _NAME.fullmatch(host) or len(host) > 253 or parts.netloc.lower() not in (host, f"{host}:{port}"):
        raise _refused("a plain host name with a dot, no number, no dot at its end, no user")
    if (host if port == 443 else f"{host}:{port}") not in settings.webhook_hosts:
        raise NotAllowedError(
            "this service does not call that webhook's host",
            got=host,
            expected=f"one of {', '.join(settings.webhook_hosts)}" if settings.webhook_hosts else "none",
            hint="ask who runs this service to put it into webhook_hosts",
        )
    return host, port


def is_public(address: str) -> bool:
    """Whether an IP address, as text, is one host on the internet and nothing in disguise.

    Forms that carry an IPv4 address inside an IPv6 one (mapped, compatible, NAT64, 6to4, Teredo, ISATAP) are
    not public, whatever they carry: who resolves names gets a plain address for every host that has one.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if not ip.is_global or ip.is_multicast or ip.is_reserved or ip.is_unspecified:
        return False
    if any(ip in network for network in _SPECIAL):
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return True
    if ip not in _UNICAST6 or ip.scope_id:  # NAT64, mapped and compatible addresses are not in there
        return False
    return (int(ip) >> 32) & 0xFDFF_FFFF != 0x5EFE  # ISATAP: …:0:5efe:a.b.c.d, or …:200:5efe:…


def _refused(expected: str) -> NotAllowedError:
    return NotAllowedError(
        "the webhook's address is not one this service calls",
        expected=expected,
        hint="such as https://hooks.example.com/spaceport",
    )
