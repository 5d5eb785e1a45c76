"""What may be asked for from outside: sources, outputs, mail, webhooks, names, presets, overrides.

Each check takes what came over the net and gives back what may be used, or raises NotAllowedError. None of
them writes, fetches or opens anything but folders and an archive's list of contents.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path

from spaceport_lab.errors import NotAllowedError, PhotosError
from spaceport_lab.params import SCHEMAS, preset_names
from spaceport_lab.serve.addresses import check_webhook, check_webhook_form
from spaceport_lab.serve.settings import ServeSettings

__all__ = [
    "check_email", "check_key", "check_output", "check_overrides", "check_presets", "check_source",
    "check_webhook", "check_webhook_form", "is_path",
]  # fmt: skip

LONGEST = 1024
"""Characters of a path or address."""

MOST_ENTRIES = 200_000
"""Files and folders of a source that are looked through for links that lead out."""

MACHINE = frozenset({"run_dir", "interactive", "max_archive_gb", "cache_gb"})
"""Parameters, of any stage, that are for who runs the machine: where it writes, limits that protect it."""

_S3 = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[^/]+)*)/?")
_ODD_IN_KEYS = frozenset('\\?#*[]{}%~|<>"^`')
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_LOCAL_PART = re.compile(r"[a-z0-9!#$&'*+/=?^_{|}~-]+(?:\.[a-z0-9!#$&'*+/=?^_{|}~-]+)*", re.IGNORECASE)
_DOMAIN = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+(?=[a-z0-9-]*[a-z])[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])",
    re.IGNORECASE,
)
_KEY = re.compile(r"[!-~]{1,200}")


def check_source(text: str, settings: ServeSettings) -> str:
    """An allowed source: an s3:// address, or the real path of a file or folder under an allowed root.

    A relative path is one below a root. What a root holds by a link that leads out of it is not allowed.

    Raises:
        NotAllowedError: anything else.
    """
    _plain(text, "the source", LONGEST)
    if text.lower().startswith("s3:"):
        return _check_s3(text, settings.s3_prefixes, "the source", "s3_prefixes")
    if _SCHEME.match(text):
        raise NotAllowedError(
            "this service reads from no address of that kind",
            expected="s3://bucket/prefix, or a path on this machine",
            hint="put the photographs into a bucket or folder that it may read",
        )
    place = _real_path(text, settings.allowed_roots)
    if place.is_dir():
        _check_links(place, settings)
    elif zipfile.is_zipfile(place):
        _check_archive(place)
    return str(place)


def _check_archive(place: Path) -> None:
    """Refuse here what ingest would refuse: nothing needs to be queued for it."""
    from spaceport_lab.ingest.sources import check_archive  # takes long to load

    try:
        check_archive(place, SCHEMAS["ingest"].model_fields["max_archive_gb"].default)
    except PhotosError as error:
        raise NotAllowedError(str(error)) from error


def check_output(text: str, settings: ServeSettings) -> str:
    """An allowed address for results, or the empty one.

    Raises:
        NotAllowedError: it is not an s3:// address below an allowed prefix.
    """
    if not text:
        return ""
    _plain(text, "the output", LONGEST)
    return _check_s3(text, settings.output_prefixes, "the output", "output_prefixes")


def check_email(text: str, settings: ServeSettings) -> str:
    """One plain address, `name@example.com`, or the empty one.

    Raises:
        NotAllowedError: several, a display name, quotes, comments, line breaks, or a domain not allowed.
    """
    if not text:
        return ""
    local, at, domain = text.rpartition("@")
    fine = at and len(text) <= 254 and len(local) <= 64
    if not (fine and _LOCAL_PART.fullmatch(local) and _DOMAIN.fullmatch(domain)):
        raise NotAllowedError(
            "the e-mail address cannot be used",
            expected="one plain address, such as name@example.com",
            hint="leave out names, brackets, quotes and further addresses",
        )
    if settings.email_domains and domain.lower() not in settings.email_domains:
        raise NotAllowedError(
            "this service sends no mail to that domain",
            expected=f"one of {', '.join(settings.email_domains)}",
        )
    return text


def check_presets(names: Sequence[str]) -> tuple[str, ...]:
    """Presets that ship with the package, by name; a path is none.

    Raises:
        NotAllowedError: there is no such preset, or there are too many.
    """
    known = preset_names()
    if len(names) > 10 or any(name not in known for name in names):
        raise NotAllowedError("there is no such preset", expected=f"some of {', '.join(known)}")
    return tuple(names)


def check_overrides(texts: Sequence[str]) -> tuple[str, ...]:
    """`stage.name=value` texts over parameters that name no path and guard no machine.

    Whether the values are within their bounds is for `params.resolve` to say.

    Raises:
        NotAllowedError: not of that form, no such parameter, or one that is not for strangers.
    """
    if len(texts) > 50:
        raise NotAllowedError("these are too many overrides", got=len(texts), expected="50 at the most")
    for text in texts:
        _plain(text, "an override", 200)
        name, equals, _ = text.partition("=")
        stage, dot, key = name.partition(".")
        if not (equals and dot) or stage not in SCHEMAS or key not in SCHEMAS[stage].model_fields:
            raise NotAllowedError(
                "an override names no parameter",
                got=name,
                expected="stage.name=value",
                hint="such as train.max_steps=3000; spaceport-lab params show lists all",
            )
        if key in MACHINE or is_path(stage, key):
            raise NotAllowedError(
                f"{stage}.{key} cannot be set from outside",
                expected="no parameter that names a path, and none that protects the machine",
                hint="what is read is said by the source",
            )
    return tuple(texts)


def is_path(stage: str, key: str) -> bool:
    """Whether a parameter names a file, folder or address: its help begins with [path]."""
    return (SCHEMAS[stage].model_fields[key].description or "").startswith("[path]")


def check_key(text: str) -> str:
    """An idempotency key, or the empty one.

    Raises:
        NotAllowedError: longer than 200 characters, or not printable ASCII.
    """
    if text and not _KEY.fullmatch(text):
        raise NotAllowedError("the idempotency key cannot be used", expected="1 to 200 printable characters")
    return text


def _plain(text: str, what: str, longest: int) -> None:
    """Refuse what is empty, too long, or has characters that cannot be seen (NUL, line breaks, overrides)."""
    if not text or len(text) > longest or not text.isprintable() or text != text.strip():
        raise NotAllowedError(
            f"{what} cannot be used", expected=f"1 to {longest} printable characters, no space around them"
        )


def _check_s3(text: str, prefixes: Sequence[str], what: str, setting: str) -> str:
    found = _S3.fullmatch(text)
    keys = found[2].split("/")[1:] if found else []
    if not found or ".." in found[1] or _ODD_IN_KEYS & set(text) or {".", ".."} & set(keys):
        raise NotAllowedError(
            f"{what} is not an S3 address that can be used",
            expected="s3://bucket/prefix, without '..', empty parts, '%', '?' or '*'",
        )
    if not f"{text.rstrip('/')}/".startswith(tuple(prefixes)):
        raise NotAllowedError(
            f"{what} is not below an address that this service may use",
            expected=f"below {', '.join(prefixes)}" if prefixes else "no S3 address at all",
            hint=f"ask who runs this service to put it into {setting}",
        )
    return text


def _real_path(text: str, roots: Sequence[Path]) -> Path:
    """The real path of `text`, below one of the roots; whether something lies elsewhere is not told."""
    parts = Path(text).parts
    outside = NotAllowedError(
        "the source is not in a folder that this service may read",
        expected="a path below one of its roots, without '..', '~' and hidden folders",
        hint="ask who runs this service for its roots",
    )
    if text.startswith("~") or any(part == ".." or len(os.fsencode(part)) > 255 for part in parts):
        raise outside
    places = [Path(os.path.realpath(root / text)) for root in roots]  # an absolute path stays what it is
    inside = [p for p in places if any(_visible_below(p, root) for root in roots)]
    if not inside:
        raise outside
    for place in inside:
        if _is_plain(place):
            return place
    raise NotAllowedError("there is nothing at this path", hint="check its spelling")


def _visible_below(place: Path, root: Path) -> bool:
    """Whether `place` is below `root`, not the root itself, and no part on the way is hidden (the queue)."""
    if place == root or not place.is_relative_to(root):
        return False
    return not any(part.startswith(".") for part in place.relative_to(root).parts)


def _is_plain(place: Path) -> bool:
    """Whether it is a folder or an ordinary file: a pipe would be read for ever."""
    try:
        mode = place.stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISDIR(mode) or stat.S_ISREG(mode)


def _check_links(folder: Path, settings: ServeSettings) -> None:
    """Refuse a folder that holds, at any depth, a link to outside of the roots and of the data folder."""
    homes = (*settings.allowed_roots, settings.data.resolve())
    waiting, seen = [folder], 0
    while waiting:
        try:
            with os.scandir(waiting.pop()) as found:
                entries = list(found)
        except OSError as error:
            raise NotAllowedError("a folder of the source cannot be read", got=error.strerror) from error
        seen += len(entries)
        if seen > MOST_ENTRIES:
            raise NotAllowedError("the source holds too many files", expected=f"at most {MOST_ENTRIES:,}")
        waiting += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        for link in (entry for entry in entries if entry.is_symlink()):
            target = Path(os.path.realpath(link.path))
            if not any(_visible_below(target, home) for home in homes):
                raise NotAllowedError(
                    "the source holds a link that leads out of the folders this service may read",
                    got=link.name,
                    hint="put the file itself there",
                )
