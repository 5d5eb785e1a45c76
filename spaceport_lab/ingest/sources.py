"""Where photographs come from: a folder, a zip, a scene. Finds files; judges none of them."""

from __future__ import annotations

import os
import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from spaceport_lab import files
from spaceport_lab.errors import PhotosError
from spaceport_lab.ingest.transforms import Frames
from spaceport_lab.workspace import Progress

GROUND_TRUTH = "ground_truth.json"
MASKS = "masks"
"""Folder of masks, beside the photographs or inside their folder."""

_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx", "ehthumbs.db", "icon\r"}
_SIDECARS = {
    ".json", ".txt", ".csv", ".md", ".srt", ".xmp", ".thm", ".lrf", ".log", ".xml", ".kml", ".kmz", ".gpx",
    ".mrk", ".nav", ".obs", ".bin", ".rtk", ".yaml", ".yml", ".html", ".pdf", ".zip",
}  # fmt: skip
PHOTO_ENDINGS = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".heic", ".heif", ".gif", ".avif"}


@dataclass(frozen=True)
class Found:
    """What lies at a source.

    Attributes:
        root: the folder the files lie under.
        names: paths relative to `root`, sorted, with forward slashes.
        ignored: what was passed over without being opened → why (hidden, system file, sidecar).
        damaged: entries of an archive that could not be unpacked whole, stretches of a video that could not
            be decoded, images that transforms.json names in vain → why.
        truth: a ground_truth.json beside or above the photographs, or None.
        masks: a folder of masks inside or beside the photographs', or None; its files are in no other list.
        frames: what a transforms.json names, where that decided which files are taken.
    """

    root: Path
    names: tuple[str, ...]
    ignored: dict[str, str]
    damaged: dict[str, str]
    truth: Path | None
    masks: Path | None = None
    frames: Frames | None = None


def collect(source: Path, unpack_dir: Path, max_archive_gb: float) -> Generator[Progress, None, Found]:
    """Find the files of a folder, a zip, a scene or a finished run; a zip is unpacked into `unpack_dir`.

    Raises:
        PhotosError: nothing at `source`, it is no folder or zip, or the archive is hostile or broken.
        WorkspaceError: the archive does not fit on the disk.
    """
    if not source.exists():
        raise PhotosError(
            "there are no photographs at this path",
            got=f"no {source}",
            hint="put the photographs there, or set ingest.source to their folder or zip",
        )
    if source.is_dir():
        return _in_folder(_photo_folder(source), beside=True)
    if not zipfile.is_zipfile(source):
        raise PhotosError(
            "photographs come as a folder or a zip, in a video or by a transforms.json",
            got=source,
            hint="give the folder the file lies in" if source.suffix.lower() in PHOTO_ENDINGS else None,
        )
    damaged = yield from _unpack(source, unpack_dir, max_archive_gb)
    root = _photo_folder(unpack_dir)
    found = _in_folder(root, beside=root != unpack_dir)
    beside = source.parent / MASKS
    masks = found.masks or (beside if beside.is_dir() else None)
    return replace(found, damaged=damaged, masks=masks)


def flat_names(names: tuple[str, ...]) -> dict[str, str]:
    """A unique file name for each relative path: folders joined by `_`, no blanks or control characters.

    Names that lie in one folder and are harmless stay as they are. Two that differ only in case get different
    names, because some file systems would mix them up.
    """
    common = os.path.commonpath([PurePosixPath(name).parent for name in names]) if names else "."
    taken: set[str] = set()
    flat = {}
    for name in names:
        inside = PurePosixPath(name).relative_to(common or ".").as_posix()
        text = unicodedata.normalize("NFC", inside.encode("utf-8", "replace").decode())
        clean = "".join("_" if c in '/\\:*?"<>|' or c.isspace() or not c.isprintable() else c for c in text)
        flat[name] = unique_name(clean.lstrip(".") or "photo", taken)
    return flat


def unique_name(name: str, taken: set[str]) -> str:
    """`name`, shortened for file systems and numbered where `taken` has it already; adds it to `taken`."""
    path = PurePosixPath(name)
    stem = _shorten(path.stem, 180)
    candidate, count = stem + path.suffix, 1
    while candidate.casefold() in taken:
        count += 1
        candidate = f"{stem}_{count}{path.suffix}"
    taken.add(candidate.casefold())
    return candidate


def _shorten(text: str, limit: int) -> str:
    # File systems allow 255 bytes a name, and a prefix may be joined to it later.
    return text.encode()[-limit:].decode(errors="ignore")


def _photo_folder(folder: Path) -> Path:
    """`folder`, or the folder of images in it when it is a scene or a run."""
    direct = any(p.suffix.lower() in PHOTO_ENDINGS and p.is_file() for p in folder.iterdir())
    if not direct:
        for inner in (folder / "images", folder / "01_ingest" / "images"):
            if inner.is_dir():
                return inner
        # An archive of one folder is opened one level further down.
        inside = [p for p in folder.iterdir() if not _is_hidden(p.name)]
        if len(inside) == 1 and inside[0].is_dir():
            return _photo_folder(inside[0])
    return folder


def _in_folder(root: Path, *, beside: bool) -> Found:
    """What lies under `root`; `beside`: whether masks may lie next to it."""
    names, ignored = [], {}
    places = (root / MASKS, root.parent / MASKS) if beside else (root / MASKS,)
    masks = next((place for place in places if place.is_dir() and place != root), None)
    for path in _walk(root):
        if masks is not None and path.is_relative_to(masks):
            continue
        name = path.relative_to(root).as_posix()
        if any(_is_hidden(part) for part in PurePosixPath(name).parts):
            ignored[name] = "hidden or made by the system"
        elif path.suffix.lower() in _SIDECARS:
            ignored[name] = "not a photograph, a file that goes with them"
        else:
            names.append(name)
    truths = (root / GROUND_TRUTH, root.parent / GROUND_TRUTH)
    truth = next((t for t in truths if t.is_file()), None)
    return Found(root, tuple(sorted(names)), ignored, {}, truth, masks)


def _walk(root: Path) -> Iterator[Path]:
    """Every file under `root` but those of our own runs; linked folders are followed once."""
    seen = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = [name for name in subfolders if not any(Path(folder, name).glob("*/run.json"))]
        yield from (Path(folder) / name for name in names)


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part.lower() in _SYSTEM_FILES


def _unpack(archive: Path, target: Path, max_gb: float) -> Generator[Progress, None, dict[str, str]]:
    """Unpack the files of a zip that could be photographs; returns entries that are damaged and why."""
    shutil.rmtree(target, ignore_errors=True)
    damaged: dict[str, str] = {}
    try:
        with zipfile.ZipFile(archive) as content:
            entries = _harmless_entries(archive, content, max_gb)
            files.check_space(target, sum(entry.file_size for entry in entries), "the archive")
            for number, entry in enumerate(entries, 1):
                place = target / _safe_path(archive, entry.filename)
                try:
                    _write_entry(content, entry, place)
                except (zipfile.BadZipFile, OSError, NotImplementedError, EOFError, ValueError) as error:
                    if isinstance(error, OSError) and error.errno is not None:
                        raise
                    place.unlink(missing_ok=True)
                    damaged[entry.filename] = f"cannot be unpacked: {error}"
                yield Progress(number, len(entries), "unpacking")
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise _not_whole(archive, error) from error
    return damaged


def check_archive(archive: Path, max_gb: float) -> None:
    """See that a zip may be unpacked, going by its list of contents alone.

    Raises:
        PhotosError: it unpacks to more than `max_gb` GB, looks like a bomb, or holds links, paths that lead
            out, or what is encrypted; or it is no whole zip.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            _harmless_entries(archive, content, max_gb)
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise _not_whole(archive, error) from error


def _not_whole(archive: Path, error: Exception) -> PhotosError:
    return PhotosError(f"{archive.name} is not a whole zip", got=str(error), hint="copy it again")


def _harmless_entries(archive: Path, content: zipfile.ZipFile, max_gb: float) -> list[zipfile.ZipInfo]:
    entries = [entry for entry in content.infolist() if not entry.is_dir()]
    _refuse_hostile(archive, entries, max_gb)
    return entries


def _refuse_hostile(archive: Path, entries: list[zipfile.ZipInfo], max_gb: float) -> None:
    def refuse(why: str, got: object, expected: str, hint: str | None = None) -> None:
        raise PhotosError(f"{archive.name} is refused: {why}", got=got, expected=expected, hint=hint)

    total = sum(entry.file_size for entry in entries)
    if total > max_gb * 1e9:
        refuse(
            "it unpacks to too much",
            f"{total / 1e9:,.1f} GB",
            f"at most {max_gb:g} GB",
            "raise ingest.max_archive_gb if that is really what it holds",
        )
    # Photographs are compressed already: a zip of them is about as large as they are.
    packed = archive.stat().st_size
    if total > 100e6 and total > 100 * packed:
        refuse(
            "it looks like a zip bomb", f"{total / 1e6:,.0f} MB out of {packed / 1e6:,.1f} MB", "photographs"
        )
    for entry in entries:
        _safe_path(archive, entry.filename)
        if stat.S_ISLNK(entry.external_attr >> 16):
            refuse("it holds a symbolic link", entry.filename, "plain files", "pack the files themselves")
        if entry.flag_bits & 1:
            refuse("it is encrypted", entry.filename, "a zip without a password", "unpack it yourself")


def _safe_path(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    drive = path.parts and path.parts[0].endswith(":")
    if path.is_absolute() or ".." in path.parts or drive or not path.parts or "\0" in name:
        raise PhotosError(
            f"{archive.name} is refused: an entry points outside the archive",
            got=repr(name),
            expected="relative paths without ..",
            hint="pack the photographs again with an ordinary program",
        )
    return path


def _write_entry(content: zipfile.ZipFile, entry: zipfile.ZipInfo, place: Path) -> None:
    with files.clear_os_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with content.open(entry) as source, open(place, "wb") as sink:
            left = entry.file_size
            while chunk := source.read(1 << 20):
                # A header may lie about the size: what is written never exceeds what was checked.
                left -= len(chunk)
                if left < 0:
                    raise zipfile.BadZipFile("longer than its header says")
                sink.write(chunk)
