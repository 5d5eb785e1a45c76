"""Photographs in a store such as S3: listed, refused when too much, fetched."""

from __future__ import annotations

import re
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from spaceport_lab import files
from spaceport_lab.errors import PhotosError, SpaceportError
from spaceport_lab.workspace import Progress

PROTOCOLS = ("s3", "gs", "az", "memory")
AT_ONCE = 8

_ADDRESS = re.compile(rf"^({'|'.join(PROTOCOLS)}):/+(?=[^/])")
_DENIED = {"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "ClientError"}


def address(source: str | Path) -> str | None:
    """`source` as an address of a store, also where a path swallowed one of its slashes; else None."""
    text = str(source)
    return _ADDRESS.sub(r"\1://", text) if _ADDRESS.match(text) else None


def fetch(
    url: str, target: Path, endings: set[str], max_gb: float
) -> Generator[Progress, None, tuple[Path, dict[str, str]]]:
    """Copy what lies under an address: with the credentials there are, else without any.

    Credentials are found where the store's own tools look for them (environment, profile, role).

    Args:
        url: such as s3://bucket/flight, a folder, or one zip or video.
        target: folder to write into.
        endings: of the names that are wanted, lower case.
        max_gb: more is refused.

    Returns:
        The folder or file that was fetched, and what was passed over → why.

    Raises:
        PhotosError: nothing there, no access, too much, or the store's package is missing.
        WorkspaceError: it does not fit on the disk.
    """
    yield Progress(0, 1, f"listing {url}")
    store, root, entries = _listing(url)
    single = set(entries) == {root}
    wanted, ignored = {}, {}
    for key, size in sorted(entries.items()):
        name = PurePosixPath(key).name if single else key.removeprefix(root).lstrip("/")
        if not single and not name.lower().endswith(tuple(endings)):
            ignored[name] = "not a photograph, and not fetched"
        elif ".." in PurePosixPath(name).parts or not name:
            ignored[repr(name)] = "a name that points elsewhere"
        else:
            wanted[key] = (name, size)
    if not wanted:
        raise PhotosError(
            "there are no photographs at this address",
            got=f"{len(entries)} other files under {url}" if entries else f"nothing under {url}",
            hint="check bucket and prefix",
        )
    _refuse_too_much(url, target, sum(size for _, size in wanted.values()), max_gb)

    def one(item: tuple[str, tuple[str, int]]) -> None:
        key, (name, _) = item
        place = target / name
        with files.clear_os_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_path(place) as temporary:
            store.get_file(key, str(temporary))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for number, _ in enumerate(pool.map(one, wanted.items()), 1):
                yield Progress(number, len(wanted), "fetching photographs")
        except SpaceportError:
            raise
        except Exception as error:  # every store has errors of its own
            denied = isinstance(error, PermissionError)
            raise PhotosError(
                f"fetching from {url} broke off",
                got=f"{type(error).__name__}: {error}",
                expected="the right to read every object, not only to list them" if denied else None,
                hint="check AWS_PROFILE and the bucket's policy" if denied else "run it again",
            ) from error
    return target / next(iter(wanted.values()))[0] if single else target, ignored


def _listing(url: str) -> tuple[Any, str, dict[str, int]]:
    """The file system, the root's key in it, and key → bytes of all files below."""
    protocol = url.partition("://")[0]
    attempts: tuple[dict[str, Any], ...] = ({}, {"anon": True}) if protocol == "s3" else ({},)
    problem: Exception | None = None
    for options in attempts:
        try:
            store, root = fsspec.core.url_to_fs(url, **options)
            root = root.rstrip("/")
            found = store.find(root, detail=True)
            return store, root, {key: int(entry.get("size") or 0) for key, entry in found.items()}
        except ImportError as error:
            raise PhotosError(
                f"{protocol}:// needs a package that is not installed",
                got=str(error),
                hint="pip install 'spaceport-lab[aws]'" if protocol == "s3" else None,
            ) from error
        except FileNotFoundError as error:
            raise PhotosError(
                "there is nothing at this address", got=url, hint="check bucket and prefix"
            ) from error
        except Exception as error:  # every store has errors of its own
            problem = error
            if not (isinstance(error, PermissionError) or type(error).__name__ in _DENIED):
                break
    raise PhotosError(
        f"{url} cannot be listed",
        got=f"{type(problem).__name__}: {problem}",
        expected="a bucket that is public, or credentials with the right to list and read",
        hint="check the bucket's name, its region, and AWS_PROFILE",
    ) from problem


def _refuse_too_much(url: str, target: Path, total: int, max_gb: float) -> None:
    if total > max_gb * 1e9:
        raise PhotosError(
            f"{url} is refused: it is too much",
            got=f"{total / 1e9:,.1f} GB",
            expected=f"at most {max_gb:g} GB",
            hint="raise ingest.max_archive_gb if that is really what it holds",
        )
    files.check_space(target, total, url)
