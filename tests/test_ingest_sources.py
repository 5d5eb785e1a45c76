"""Sources beyond folder and zip: stores, nerfstudio's transforms.json, videos, and surveyed positions."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyproj
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pictures import exif, good_set, gps_ifd, save, texture
from plyfile import PlyData, PlyElement
from scipy.spatial.transform import Rotation
from test_ingest import photos_of, take_in
from test_ingest_video import film

from spaceport_lab import colmap, ingest
from spaceport_lab.errors import InputError, PhotosError
from spaceport_lab.ingest import remote
from spaceport_lab.params import IngestParams
from spaceport_lab.pipeline.request import make_request
from spaceport_lab.workspace import StageRun


def take_from(source: str, root: Path, **settings: object) -> StageRun:
    """Run the stage on anything that is not a path."""
    run = StageRun(root / "scene" / "runs" / "job", "ingest")
    run.dir.mkdir(parents=True, exist_ok=True)
    list(ingest.run(run, IngestParams(source=source, **settings)))
    return run


# ---- stores


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryFileSystem]:
    """memory://bucket with a flight in it."""
    memory = fsspec.filesystem("memory")
    for path in good_set(tmp_path / "put").iterdir():
        memory.pipe(f"/bucket/flight/day 1/{path.name}", path.read_bytes())
    memory.pipe("/bucket/flight/model.ply", b"x" * 1000)
    memory.pipe("/bucket/flight/notes.txt", b"words")
    yield memory
    memory.rm("/bucket", recursive=True)


def test_a_folder_of_a_store(store: MemoryFileSystem, tmp_path: Path) -> None:
    store.pipe("/bucket/flight/run.exe", b"x" * 1000)
    run = take_from("memory://bucket/flight", tmp_path)
    assert run.metrics["n_used"] == 3
    assert set(photos_of(run)) == {f"day 1/good_{k}.jpg" for k in range(3)}
    assert (run.dir / "images" / "good_1.jpg").read_bytes() == store.cat("/bucket/flight/day 1/good_1.jpg")
    listed = json.loads((run.dir / "photos.json").read_text())
    ignored = {row["source"]: row["reason"] for row in listed["ignored"]}
    assert ignored["run.exe"] == "not a photograph, and not fetched"
    assert {"model.ply", "run.exe"} <= set(ignored)
    assert listed["source"] == "memory://bucket/flight"
    assert not (run.dir / "work").exists()


def test_a_zip_in_a_store(store: MemoryFileSystem, tmp_path: Path) -> None:
    packed = tmp_path / "flight.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted((tmp_path / "put").iterdir()):
            archive.write(path, path.name)
    store.pipe("/bucket/flight.zip", packed.read_bytes())
    assert take_from("memory://bucket/flight.zip", tmp_path).metrics["n_used"] == 3


def test_what_a_store_refuses_or_lacks(store: MemoryFileSystem, tmp_path: Path) -> None:
    with pytest.raises(PhotosError, match=r"it is too much[\s\S]*ingest.max_archive_gb"):
        take_from("memory://bucket/flight", tmp_path, max_archive_gb=1e-6)
    with pytest.raises(PhotosError, match="at this address"):
        take_from("memory://bucket/nothing", tmp_path)
    store.pipe("/bucket/other/readme.md", b"x")
    with pytest.raises(PhotosError, match=r"no photographs at this address[\s\S]*1 other files"):
        take_from("memory://bucket/other", tmp_path)


class Closed(MemoryFileSystem):
    """A store that lets in only those who come without credentials, as a public bucket does."""

    protocol = ("s3",)
    cachable = False

    def __init__(self, anon: bool = False, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.anon = anon

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("s3://"))

    def find(self, *args: object, **kwargs: object) -> object:
        if not self.anon:
            raise PermissionError("Forbidden")
        return super().find(*args, **kwargs)


@pytest.fixture
def s3(store: MemoryFileSystem) -> Iterator[type[Closed]]:
    from fsspec.registry import _registry

    before = _registry.get("s3")
    fsspec.register_implementation("s3", Closed, clobber=True)
    yield Closed
    _registry.pop("s3")
    if before is not None:
        _registry["s3"] = before


def test_a_public_bucket_is_read_without_credentials(s3: type[Closed], tmp_path: Path) -> None:
    assert take_from("s3://bucket/flight", tmp_path).metrics["n_used"] == 3


def test_no_access_is_said(s3: type[Closed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Closed, *args: object, **kwargs: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(Closed, "find", refuse)
    with pytest.raises(PhotosError, match=r"cannot be listed[\s\S]*Access Denied[\s\S]*AWS_PROFILE"):
        take_from("s3://bucket/flight", tmp_path)


def test_a_download_that_breaks_off_is_said_and_leaves_nothing(
    store: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(self: MemoryFileSystem, *args: object, **kwargs: object) -> None:
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(MemoryFileSystem, "get_file", break_off)
    with pytest.raises(PhotosError, match=r"broke off[\s\S]*reset by peer"):
        take_from("memory://bucket/flight", tmp_path)
    assert not (tmp_path / "scene/runs/job/01_ingest/work").exists()


@pytest.mark.parametrize(
    ("text", "url"),
    [("s3://b/x", "s3://b/x"), ("s3:/b/x", "s3://b/x"), ("/data/x", None), ("file:///etc", None),
     ("C:/x", None), ("ssh://host/x", None), ("s3:x", None)],
)  # fmt: skip
def test_addresses(text: str, url: str | None) -> None:
    assert remote.address(text) == url
    assert remote.address(Path(text)) == url


# ---- transforms.json


def nerfstudio(folder: Path, **more: object) -> tuple[Path, list[np.ndarray]]:
    """Four images with poses and points, and reduced copies that are not meant; and [4, 4] poses."""
    viewmats, frames = [], []
    for k in range(4):
        save(folder / "images" / f"frame_{k}.jpg", texture(k))
        save(folder / "images_2" / f"frame_{k}.jpg", texture(k)[::2, ::2])
        rotation = Rotation.from_euler("xyz", [10 * k, -20, 5 * k], degrees=True).as_matrix()
        viewmat = np.eye(4)
        viewmat[:3, :3], viewmat[:3, 3] = rotation, (k, 2.0, -1.0)
        viewmats.append(viewmat)
        pose = np.linalg.inv(viewmat) @ np.diag([1.0, -1, -1, 1])
        frames.append({"file_path": f"images/frame_{k}.jpg", "transform_matrix": pose.tolist()})
    content = {"camera_model": "OPENCV", "fl_x": 700.0, "fl_y": 710.0, "cx": 401.0, "cy": 299.0, "w": 800,
               "h": 600, "k1": 0.01, "k2": 0.0, "p1": 0.0, "p2": 0.001, "frames": frames, **more}  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps(content))
    kinds = [(k, "f4") for k in "xyz"] + [(k, "u1") for k in ("red", "green", "blue")]
    points = np.array([(1, 2, 3, 9, 8, 7), (4, 5, 6, 1, 2, 3)], dtype=kinds)
    PlyData([PlyElement.describe(points, "vertex")]).write(str(folder / "sparse_pc.ply"))
    return folder, viewmats


@pytest.mark.parametrize("how", ["folder", "file", "zip"])
def test_nerfstudio_images_and_poses(how: str, tmp_path: Path) -> None:
    folder, viewmats = nerfstudio(tmp_path / "in")
    source = {"folder": folder, "file": folder / "transforms.json", "zip": tmp_path / "x.zip"}[how]
    if how == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder))
    run = take_in(source, tmp_path)
    assert run.metrics["n_photos"] == run.metrics["n_used"] == run.metrics["n_given_poses"] == 4
    assert "given" in run.outputs
    model = colmap.read_model(run.dir / "given" / "sparse")
    assert [image.name for image in model.images] == [f"frame_{k}.jpg" for k in range(4)]
    for image, viewmat in zip(model.images, viewmats, strict=True):
        assert colmap.rotation_matrix(image.quat) == pytest.approx(viewmat[:3, :3], abs=1e-9)
        assert image.translation == pytest.approx(viewmat[:3, 3], abs=1e-9)
        camera = model.cameras[image.camera_id]
        assert (camera.model, camera.width, camera.height) == ("OPENCV", 400, 300)
        assert camera.params == pytest.approx([350, 355, 200.5, 149.5, 0.01, 0, 0, 0.001])
    assert len(model.cameras) == 1
    assert model.points.xyz == pytest.approx(np.array([(1, 2, 3), (4, 5, 6)]))
    assert model.points.rgb.tolist() == [[9, 8, 7], [1, 2, 3]]


def test_what_transforms_json_gets_wrong_is_said(tmp_path: Path) -> None:
    folder, _ = nerfstudio(tmp_path / "in")
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"][0]["transform_matrix"] = np.diag([2.0, 1, 1, 1]).tolist()
    pose = content["frames"][1]["transform_matrix"]
    content["frames"] += [
        {"file_path": "images/gone.jpg", "transform_matrix": pose},
        {"file_path": "../outside.jpg", "transform_matrix": pose},
        {"file_path": "images/\0.jpg", "transform_matrix": pose},
    ]
    (folder / "transforms.json").write_text(json.dumps(content))
    run = take_in(folder, tmp_path)
    photos = photos_of(run)
    assert "it is not there" in photos["images/gone.jpg"]["reason"]
    assert "outside its own folder" in photos["../outside.jpg"]["reason"]
    assert photos["images/frame_0.jpg"]["status"] == "used"
    assert run.metrics["n_given_poses"] == 3
    assert any("1 poses are not usable: transform_matrix is no rotation" in w for w in run.warnings)
    for text in ("{}", "[1]", "no json", "[" * 99_999, '{"frames": 3}', '{"frames": [{}]}'):
        (folder / "transforms.json").write_text(text)
        with pytest.raises(PhotosError, match="is not nerfstudio's"):
            take_in(folder, tmp_path)


def test_angles_and_names_without_an_ending(tmp_path: Path) -> None:
    folder, _ = nerfstudio(tmp_path / "in")
    content = json.loads((folder / "transforms.json").read_text())
    (folder / "sparse_pc.ply").unlink()
    frames = [{**frame, "file_path": frame["file_path"][:-4]} for frame in content["frames"]]
    (folder / "transforms.json").write_text(json.dumps({"camera_angle_x": 1.0, "frames": frames}))
    run = take_in(folder, tmp_path)
    camera = next(iter(colmap.read_model(run.dir / "given" / "sparse").cameras.values()))
    assert camera.model == "PINHOLE"
    assert any("come without points" in warning for warning in run.warnings)
    assert camera.params == pytest.approx([200 / np.tan(0.5), 200 / np.tan(0.5), 200, 150])


# ---- video


def test_a_video_is_a_source(tmp_path: Path) -> None:
    clip = film(tmp_path / "flight.mov")
    run = take_from(str(clip), tmp_path, video_every=1.0, min_side=200, max_similarity=1, min_sharpness=0)
    assert run.metrics["n_photos"] == 4
    assert sorted(photos_of(run))[0] == "flight_00001.jpg"
    assert (run.dir / "images" / "flight_00001.jpg").is_file()


# ---- gcp_list.txt and geo.txt


def test_control_points_are_checked_and_handed_on(tmp_path: Path) -> None:
    good_set(tmp_path / "in" / "images", 4)
    (tmp_path / "in" / "gcp_list.txt").write_text(
        "WGS84 UTM 32N\n# a remark\n"
        "388000.5 5150000.25 600 10 20 good_0.jpg A\n388000.5 5150000.25 600 30.5 40 GOOD_1.JPG A\n"
        "388100 5150100 601 200 100 good_1.jpg\n388100 5150100 601 210 100 good_2.jpg\n"
        "388000.5 5150000.25 600 9000 20 good_2.jpg A\n388000.5 5150000.25 600 9 20 nobody.jpg A\n"
        "388777 5150000.25 600 9 20 good_3.jpg A\nwords only\n"
    )
    run = take_in(tmp_path / "in", tmp_path)
    points = json.loads((run.dir / "gcp.json").read_text())
    assert "gcp.json" in run.outputs
    assert [point["name"] for point in points] == ["A", "gcp2"]
    assert {k: points[0][k] for k in "xyz"} == {"x": 388000.5, "y": 5150000.25, "z": 600}
    assert pyproj.CRS.from_user_input(points[0]["crs"]).to_epsg() == 32632
    assert points[0]["observations"] == [
        {"image": "good_0.jpg", "px": 10, "py": 20},
        {"image": "good_1.jpg", "px": 30.5, "py": 40},
    ]
    assert len(points[1]["observations"]) == 2
    said = " ".join(run.warnings)
    for words in (
        "point outside their photograph (line 7)",
        "no photograph that is here (line 8)",
        "put A elsewhere than its first line (line 9)",
        "are not `x y z px py image name` (line 10)",
    ):
        assert words in said  # fmt: skip


@pytest.mark.parametrize("system", ["EPSG:32632", "WGS84 UTM 32N", "+proj=utm +zone=32 +datum=WGS84"])
def test_geo_txt_comes_before_exif(system: str, tmp_path: Path) -> None:
    source = good_set(tmp_path / "in", 4)
    to_utm = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32632", always_xy=True)
    east, north = to_utm.transform(7.6, 46.6)
    (source / "geo.txt").write_text(
        f"{system}\ngood_0.jpg\t{east}\t{north}\t812.5\t0\t0\t0\t0.02\t0.04\ngood_1 {east} {north + 20}\n"
        f"gone.jpg {east} {north} 1\nwords\n"
    )
    run = take_in(source, tmp_path, max_gps_jump=0)
    photos = photos_of(run)
    assert photos["good_0.jpg"]["gps"] == pytest.approx({"lat": 46.6, "lon": 7.6, "alt": 812.5}, abs=1e-8)
    assert photos["good_1.jpg"]["gps"]["alt"] is None
    assert photos["good_2.jpg"]["gps"]["lat"] == pytest.approx(46.5002)
    assert any("line 5 of geo.txt is not" in warning for warning in run.warnings)
    assert any("1 lines of geo.txt are of no photograph: gone.jpg" in warning for warning in run.warnings)


@pytest.mark.parametrize("name", ["geo.txt", "gcp_list.txt"])
def test_no_coordinate_system_is_an_error_that_says_what_to_write(name: str, tmp_path: Path) -> None:
    source = good_set(tmp_path / "in")
    for text in ("", "somewhere\n1 2 3 4 5 good_0.jpg\n", "EPSG:99999999\n"):
        (source / name).write_text(text)
        with pytest.raises(PhotosError, match=r"names no coordinate system[\s\S]*EPSG:32633"):
            take_in(source, tmp_path)


# ---- what `run` takes


def test_run_takes_all_of_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    folder, _ = nerfstudio(tmp_path / "My Scan")
    clip = tmp_path / "Flight 7.MP4"
    clip.write_bytes(b"x")
    wanted = {
        Path("s3://bucket/flights/Harbour/"): ("harbour", "s3://bucket/flights/Harbour"),
        folder: ("my-scan", str(folder)),
        folder / "transforms.json": ("my-scan", str(folder)),
        clip: ("flight-7", str(clip)),
    }
    for path, (scene, source) in wanted.items():
        request = make_request(path, "full", data)
        assert (request.scene, request.fixed["ingest"]["source"]) == (scene, source)
    with pytest.raises(InputError, match="only photographs can be fetched"):
        make_request(Path("s3://bucket/model.ply"), "compression", data)
    with pytest.raises(InputError, match="of addresses only those of stores"):
        make_request(Path("https://example.com/x"), "full", data)


def test_a_folder_without_gps_or_extras_says_nothing_more(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for k in range(3):
        save(source / f"{k}.jpg", texture(k), exif=exif(gps=gps_ifd()) if k == 0 else b"")
    run = take_in(source, tmp_path)
    assert not {"gcp.json", "given"} & set(run.outputs)
    assert not {"n_control_points", "n_given_poses"} & set(run.metrics)
