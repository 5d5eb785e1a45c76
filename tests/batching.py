"""For tests of batches: scenes that are folders, and a stand-in for the pipeline that takes no time."""

from __future__ import annotations

import sys
from pathlib import Path

STUB = '''
"""What `python -m spaceport_lab.jobs.execute` does, in a tenth of its time: token, card, result."""
import json, os, signal, sys, time
from pathlib import Path
from spaceport_lab import fence, files, runcard
from spaceport_lab.errors import FencedError, InputError, StoreBusyError
from spaceport_lab.jobs.execute import _die_with_keeper
from spaceport_lab.jobs.failures import from_exception
from spaceport_lab.naming import slug

_die_with_keeper()
spec = json.loads(Path(sys.argv[1]).read_text())
source = Path(spec["ask"]["source"])
images = source / "images" if (source / "images").is_dir() else source
scene = slug(spec["ask"]["scene"]) if spec["ask"]["scene"] else source.name
root = Path(spec["data"]) / scene / "runs" / spec["name"]
said = {"ok": False, "again": False, "interrupted": False, "failure": None}
signal.signal(signal.SIGTERM, signal.default_int_handler)

def stage(card, **values):
    card["stages"].setdefault("train", {}).update(values)

def show(token):
    with open(root / "writes.txt", "a") as log:
        log.write(f"{token} {time.monotonic()}\\n")

try:
    fence.take(root, spec["token"])
    with open(source / "ran.txt", "a") as log:
        given = (os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"))
        log.write(" ".join([str(spec["token"]), str(os.getpid()), *given]) + "\\n")
    asked = {
        "steps": spec["ask"]["steps"], "source": {"ingest": {"source": str(images)}},
        "presets": spec["ask"]["presets"], "overrides": spec["ask"]["overrides"],
    }
    runcard.update(root, lambda card: card.update(status="running", request=asked))
    runcard.update(root, lambda card: stage(card, status="running"))
    if (source / "bad.txt").exists():
        raise InputError("these are no photographs", got="bad.txt", hint="other ones")
    if (source / "busy.txt").exists():
        (source / "busy.txt").unlink()
        raise StoreBusyError("the store is busy")
    if (source / "die.txt").exists():
        (source / "die.txt").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    while (source / "wait.txt").exists():
        files.write_json(root / "progress.json", {"token": spec["token"], "step": 1, "total": 2})
        show(spec["token"])
        time.sleep(0.02)
    done = {"status": "succeeded", "seconds": 1.5, "metrics": {"psnr_heldout": 30.0, "bytes": 2_000_000}}
    runcard.update(root, lambda card: (stage(card, **done), card["stages"].update(compress=done)))
    runcard.update(root, lambda card: card.update(status="succeeded"))
    said["ok"] = True
except KeyboardInterrupt:
    said["interrupted"] = True
    runcard.update(root, lambda card: card.update(status="interrupted"))
except FencedError as error:
    (source / "refused.txt").write_text(str(spec["token"]))
    said["failure"] = from_exception(error, root)[0].as_dict()
except Exception as error:
    failure, said["again"] = from_exception(error, root)
    said["failure"] = failure.as_dict()
    runcard.update(root, lambda card: card.update(status="failed", error=str(error)))
files.write_json(Path(spec["result"]), said)
'''


def stub(folder: Path) -> tuple[str, ...]:
    """The command of the stand-in, written into `folder`."""
    path = folder / "stub.py"
    path.write_text(STUB)
    return (sys.executable, str(path))


def make_scenes(folder: Path, n: int) -> list[Path]:
    """Folders `site00`, `site01` …, each with what looks like a photograph from outside."""
    made = [folder / f"site{number:02d}" for number in range(n)]
    for place in made:
        place.mkdir(parents=True)
        (place / "photo.jpg").write_bytes(b"")
    return made


def times_run(place: Path) -> int:
    """How often the stand-in was begun on a scene."""
    path = place / "ran.txt"
    return len(path.read_text().splitlines()) if path.exists() else 0
