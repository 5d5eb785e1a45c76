"""What may come in: tables of what is taken and of what is refused, most of it hostile."""

from __future__ import annotations

import os
import socket
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceport_lab.errors import NotAllowedError, ParamsError
from spaceport_lab.params import SCHEMAS, preset_names
from spaceport_lab.serve import rules
from spaceport_lab.serve.addresses import is_public
from spaceport_lab.serve.settings import ServeSettings, load

HOOK = "https://hooks.example.com/spaceport?x=1"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A data folder with a scene, what lies outside of it, and links between them."""
    data = tmp_path / "data"
    for folder in ("sample/images", ".jobs", "inner"):
        (data / folder).mkdir(parents=True)
    (data / "sample" / "images" / "a.jpg").write_text("a")
    (data / ".jobs" / "token").write_text("secret")
    (data / "flight.zip").write_text("zip")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.jpg").write_text("b")
    (tmp_path / "data-of-others").mkdir()
    (data / "out").symlink_to(outside)
    (data / "in").symlink_to(data / "sample")
    (data / "loop").symlink_to(data / "loop")
    (data / "inner" / "deep").mkdir()
    (data / "inner" / "deep" / "leak.jpg").symlink_to(outside / "b.jpg")
    (data / "queue").mkdir()
    (data / "queue" / "x.jpg").symlink_to(data / ".jobs" / "token")
    os.mkfifo(data / "pipe")
    return data


def allowed(house: Path, **more: Any) -> ServeSettings:
    return ServeSettings(
        data=house, s3_prefixes=("s3://flights/2026", "s3://all-of-it"), output_prefixes=("s3://runs/lab/",),
        webhook_hosts=("hooks.example.com", "hooks.example.com:8443"), **more,
    )  # fmt: skip


# ---------------------------------------------------------------- sources


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("flight/a.jpg", bytes(150_000_000), "zip bomb"), ("../a.jpg", b"a", "outside the archive"),
        ("flight/a.jpg", b"a", None),
    ],
    ids=["bomb", "way out", "harmless"],
)  # fmt: skip
def test_an_archive_is_refused_before_anything_is_queued(
    name: str, content: bytes, said: str | None, house: Path
) -> None:
    with zipfile.ZipFile(house / "packed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    if said is None:
        assert rules.check_source("packed.zip", allowed(house)) == str(house.resolve() / "packed.zip")
        return
    with pytest.raises(NotAllowedError, match=said) as refused:
        rules.check_source("packed.zip", allowed(house))
    assert str(house) not in str(refused.value)


def test_sources_that_are_taken(house: Path) -> None:
    s = allowed(house)
    real = house.resolve()
    assert rules.check_source("sample", s) == str(real / "sample")
    assert rules.check_source(str(house / "sample" / "images"), s) == str(real / "sample" / "images")
    assert rules.check_source("flight.zip", s) == str(real / "flight.zip")
    assert rules.check_source("in", s) == str(real / "sample"), (
        "a link that stays inside is what it points to"
    )
    assert rules.check_source("./sample/", s) == str(real / "sample")
    for url in (
        "s3://flights/2026/march",
        "s3://flights/2026",
        "s3://all-of-it/Ä b/x.zip",
        "s3://all-of-it/",
    ):
        assert rules.check_source(url, s) == url


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ".", "/", "..", "../outside", "sample/../../outside", "sample/..", "sample/../flight.zip",
        "/etc/passwd",
        "/proc/self/environ",
        "~", "~root", "~/data", "out", "out/b.jpg", "loop", "loop/x", "inner", "inner/deep", "queue",
        "pipe", "missing",
        ".jobs", ".jobs/token", "sample/\0", "sample\n", "sample\r\nX: y", " sample", "sample ", "sample\t",
        "sample\u202e", "sample\u2028", "\ud800", "x" * 300, "x/" * 600, "a" * 5000,
        "file:///etc/passwd", "file:sample", "http://169.254.169.254/latest/meta-data/",
        "https://example.com/a.zip",
        "gs://bucket/x", "gs:/bucket/x", "az://bucket/x", "memory://x", "memory:/x", "ftp://x/y", "data:,x",
        "C:\\x",
        "S3://flights/2026/x", "s3:/flights/2026/x", "s3:flights/2026/x", "s3:///flights/2026", "s3://",
        "s3://flights",
        "s3://flights/2025/x", "s3://flights/20266/x", "s3://flights/2026/../secret", "s3://flights/2026/./x",
        "s3://flights/2026//x", "s3://flights/2026/%2e%2e/x", "s3://flights/2026/x?versionId=1",
        "s3://flights/2026/*",
        "s3://flights/2026/x#y", "s3://flights/2026\\..\\x", "s3://other/2026/x", "s3://FLIGHTS/2026/x",
        "s3://all-of-it.evil/x", "s3://all-of-it@evil/x", "s3://user:pass@all-of-it/x", "s3://all-of-it:80/x",
        "s3://all-of-it/" + "x" * 2000, "s3://all-of-it/a\nb", "s3://a..b/x", "simplecache::s3://all-of-it/x",
        "s3://all-of-it/x::file:///etc/passwd|",
    ],
)  # fmt: skip
def test_sources_that_are_refused(house: Path, text: str) -> None:
    (house / "..data").mkdir()
    with pytest.raises(NotAllowedError):
        rules.check_source(text, allowed(house))


def test_a_root_itself_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "data" / "sample").mkdir(parents=True)
    for text in (".", "./", str(tmp_path / "data")):
        with pytest.raises(NotAllowedError):
            rules.check_source(text, ServeSettings(data=tmp_path / "data"))


def test_a_sibling_that_begins_alike_is_outside(house: Path) -> None:
    with pytest.raises(NotAllowedError):
        rules.check_source(str(house) + "-of-others", allowed(house))


def test_what_lies_outside_and_what_does_not_exist_look_the_same(house: Path) -> None:
    """Nobody learns by asking which files the machine has."""
    said = set()
    for text in (str(house.parent / "outside" / "b.jpg"), str(house.parent / "outside" / "no.jpg")):
        with pytest.raises(NotAllowedError) as caught:
            rules.check_source(text, allowed(house))
        said.add(str(caught.value))
    assert len(said) == 1


def test_a_link_may_lead_from_one_root_into_another(house: Path) -> None:
    s = allowed(house, roots=(house, house.parent / "outside"))
    assert rules.check_source("inner", s) == str((house / "inner").resolve())
    assert rules.check_source("b.jpg", s) == str((house.parent / "outside" / "b.jpg").resolve())
    only = allowed(house, roots=(house.parent / "outside",))
    with pytest.raises(NotAllowedError):
        rules.check_source("sample", only)


def test_a_source_of_too_many_files_is_refused(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MOST_ENTRIES", 1)
    with pytest.raises(NotAllowedError, match="too many"):
        rules.check_source("sample", allowed(house))


def test_no_prefix_means_no_s3(house: Path) -> None:
    with pytest.raises(NotAllowedError):
        rules.check_source("s3://flights/2026/x", ServeSettings(data=house))
    with pytest.raises(NotAllowedError):
        rules.check_output("s3://runs/lab/x", ServeSettings(data=house))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40).map(lambda t: f"sample/{t}") | st.text(max_size=60))
def test_whatever_is_asked_for_nothing_else_is_raised(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    data = tmp_path_factory.getbasetemp() / "any"
    (data / "sample" / "images").mkdir(parents=True, exist_ok=True)
    try:
        found = rules.check_source(text, ServeSettings(data=data))
    except NotAllowedError:
        return
    assert Path(found).is_relative_to(data.resolve() / "sample")


def test_outputs(house: Path) -> None:
    s = allowed(house)
    assert rules.check_output("", s) == ""
    assert rules.check_output("s3://runs/lab/march", s) == "s3://runs/lab/march"
    for text in (
        "s3://runs",
        "s3://runs/labs",
        "s3://flights/2026/x",
        "/tmp/x",
        "https://x.example",
        "s3://runs/lab/../x",
    ):
        with pytest.raises(NotAllowedError):
            rules.check_output(text, s)


# ---------------------------------------------------------------- webhooks


def answers(*addresses: str) -> Any:
    def lookup(host: str, port: int, **_: Any) -> list[Any]:
        assert (host, port) in (("hooks.example.com", 443), ("hooks.example.com", 8443))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return lookup


def test_a_webhook_gives_the_address_to_connect_to(house: Path) -> None:
    s = allowed(house)
    assert rules.check_webhook(HOOK, s, answers("93.184.215.14")) == "93.184.215.14"
    assert rules.check_webhook(
        "https://HOOKS.example.com:8443/", s, answers("2606:2800:21f:cb07::1")
    ).startswith("2606")
    assert rules.check_webhook("https://hooks.example.com:443/x", s, answers("1.1.1.1")) == "1.1.1.1"


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.example.com", "http://hooks.example.com/", "HTTPS://hooks.example.com/",
        "//hooks.example.com/",
        "https:hooks.example.com", "https:/hooks.example.com", "https:///hooks.example.com", "https://",
        "https://:443/",
        "https://hooks.example.com./", "https://.hooks.example.com/", "https://hooks..example.com/",
        "https://hooks.example.com.evil.org/", "https://evil.org/hooks.example.com",
        "https://sub.hooks.example.com/",
        "https://hooks.example.com@evil.org/", "https://user@hooks.example.com/",
        "https://user:pw@hooks.example.com/",
        "https://evil.org\\@hooks.example.com/", "https://hooks.example.com\\.evil.org/",
        "https://hooks.example.com#@evil.org",
        "https://hooks.example.com%2eevil.org/", "https://hooks%2eexample.com/",
        "https://hooks.example.com:444/",
        "https://hooks.example.com:99999/", "https://hooks.example.com:-1/", "https://hooks.example.com:44３/",
        "https://hooks.example.com:0443/", "https://hooks.example.com: 443/", "https://hooks.example.com:/",
        "https://hooks.example.com/\r\nX: y", "https://hooks.example.com/\0", "https://hooks.example.com/a b",
        "https://hooks.example.com/\tx", "ht\ntps://hooks.example.com/", "https://hooks\n.example.com/",
        "https://ｈooks.example.com/", "https://hooks。example.com/", "https://höoks.example.com/",
        "https://xn--hoks-5qa.example.com/",
        "https://localhost/", "https://127.0.0.1/", "https://2130706433/", "https://0x7f.1/",
        "https://0177.1/",
        "https://0x7f000001/", "https://127.1/", "https://[::1]/", "https://[::ffff:169.254.169.254]/",
        "https://[::ffff:a9fe:a9fe]/",
        "https://[64:ff9b::a9fe:a9fe]/", "https://[2002:a9fe:a9fe::]/", "https://169.254.169.254/",
        "https://2852039166/",
        "https://0xa9fea9fe/", "https://0251.0376.0251.0376/", "https://metadata.google.internal/",
        "https://169.254.169.254.nip.io/",
        "ftp://hooks.example.com/", "javascript:alert(1)", "file:///etc/passwd",
        "gopher://hooks.example.com/",
        "https://hooks.example.com/" + "x" * 3000,
    ],
)  # fmt: skip
def test_webhooks_refused_by_their_form(house: Path, url: str) -> None:
    def never(*_: Any, **__: Any) -> list[Any]:
        pytest.fail("a name was looked up")

    with pytest.raises(NotAllowedError):
        rules.check_webhook(url, allowed(house), never)


PRIVATE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254",
    "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1",
    "198.51.100.1", "203.0.113.1",
    "192.88.99.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::a9fe:a9fe", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
    "::ffff:0:a9fe:a9fe",
    "::ffff:93.184.215.14", "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::",
    "2002:7f00:1::1", "2001:0:a9fe:a9fe::", "2001::1", "2001:db8::1", "fe80::1", "fe80::1%eth0",
    "2606:4700::1111%eth0", "fc00::1",
    "fd00:ec2::254", "fec0::1", "ff02::1", "100::1", "3fff::1", "5f00::1", "2606:4700::5efe:a9fe:a9fe",
    "2606:4700::200:5efe:a9fe:a9fe", "4000::1", "not an address", "", "2130706433", "0x7f.1", "0177.0.0.1",
    "127.1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(house: Path, address: str) -> None:
    assert not is_public(address)
    for found in ((address,), ("93.184.215.14", address), (address, "93.184.215.14")):
        with pytest.raises(NotAllowedError):
            rules.check_webhook(HOOK, allowed(house), answers(*found))


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "1.1.1.1", "8.8.8.8", "2606:4700::1111", "2a00:1450:4001::8a"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


def test_a_name_that_cannot_be_looked_up_now_is_no_broken_rule(house: Path) -> None:
    def fails(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    for lookup in (fails, answers()):
        with pytest.raises(OSError, match=r"try again|no address"):
            rules.check_webhook(HOOK, allowed(house), lookup)


# ---------------------------------------------------------------- mail, presets, overrides, keys


def test_mail_addresses(house: Path) -> None:
    s = allowed(house)
    for text in ("", "pilot@example.com", "a.b+c@mail.example.co.uk", "x@xn--bcher-kva.example"):
        assert rules.check_email(text, s) == text
    only = allowed(house, email_domains=("example.com",))
    assert rules.check_email("pilot@EXAMPLE.com", only)
    with pytest.raises(NotAllowedError):
        rules.check_email("pilot@example.org", only)


@pytest.mark.parametrize(
    "text",
    [
        " ", "pilot", "@example.com", "pilot@", "pilot@localhost", "a@b@example.com",
        "a@example.com,b@example.com",
        "a@example.com;b@example.com", "a@example.com b@example.com", "a@example.com\r\nBcc: b@example.com",
        "a\r\n@example.com", "a@example.com\n", "a@example.com\0", "Pilot <a@example.com>", "<a@example.com>",
        '"a b"@example.com', "a@example.com(x)", "(x)a@example.com", "a@[127.0.0.1]", "a@127.0.0.1",
        ".a@example.com",
        "a.@example.com", "a..b@example.com", "a@-example.com", "a@example-.com", "a@.example.com",
        "a@example..com",
        "a@example.com.", "a%b@example.com", "a!b@[x]", "ä@example.com", "a@exämple.com",
        "a\u202e@example.com",
        "a" * 65 + "@example.com", "a@" + "b" * 64 + ".com", "a@" + "b." * 130 + "com",
        "mailto:a@example.com", "a@example.com?x",
    ],
)  # fmt: skip
def test_mail_addresses_that_are_refused(house: Path, text: str) -> None:
    with pytest.raises(NotAllowedError):
        rules.check_email(text, allowed(house))


def test_presets_go_by_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("train: {max_steps: 1}")
    monkeypatch.chdir(tmp_path)
    assert rules.check_presets(preset_names()[:2]) == tuple(preset_names()[:2])
    for name in (
        "mine.yaml",
        str(tmp_path / "mine.yaml"),
        "../params/demo",
        "demo.yaml",
        "Demo",
        "",
        "demo\0",
    ):
        with pytest.raises(NotAllowedError):
            rules.check_presets([name])
    with pytest.raises(NotAllowedError):
        rules.check_presets(["demo"] * 11)


def test_overrides_are_of_parameters_that_name_no_path() -> None:
    assert rules.check_overrides(["train.max_steps=5", "train.strategy=mcmc"]) == (
        "train.max_steps=5",
        "train.strategy=mcmc",
    )
    bad = [
        "train.max_steps", "max_steps=5", "train=5", "nope.max_steps=5", "train.nope=5", "train.__class__=5",
        " train.max_steps=5", "train.max_steps=5\n", "train.max_steps=\0", "train.max_steps=" + "9" * 300,
        "=", ".",
    ]  # fmt: skip
    for text in bad:
        with pytest.raises(NotAllowedError):
            rules.check_overrides([text])
    with pytest.raises(NotAllowedError):
        rules.check_overrides(["train.max_steps=5"] * 51)


FREE_TEXT = {"ingest.keep"}
"""Text parameters that were looked at and name no path; add one here only after looking."""


def test_every_parameter_that_is_a_path_is_refused() -> None:
    """A text parameter is either refused or known to be harmless, so that a new one is looked at."""
    texts = {
        f"{stage}.{key}"
        for stage, schema in SCHEMAS.items()
        for key, field in schema.model_fields.items()
        if field.annotation is str
    }
    known = {
        "ingest.source",
        "sfm.import_path",
        "sfm.import_images",
        "train.init_from",
        "compress.ply",
        "train.run_dir",
    }
    assert known <= texts
    refused = set()
    for name in texts | {"train.interactive", "ingest.max_archive_gb", "sfm.cache_gb"}:
        try:
            rules.check_overrides([f"{name}=x"])
        except NotAllowedError:
            refused.add(name)
    assert texts - refused == FREE_TEXT
    assert {"train.interactive", "ingest.max_archive_gb", "sfm.cache_gb"} <= refused


def test_keys() -> None:
    assert rules.check_key("") == ""
    assert rules.check_key("x" * 200) == "x" * 200
    for text in ("x" * 201, "a b", "a\n", "ä", "\0"):
        with pytest.raises(NotAllowedError):
            rules.check_key(text)


# ---------------------------------------------------------------- settings


def test_settings_come_from_the_file_then_the_environment_then_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(
        "data: scenes\nroots: [scenes, /mnt/flights]\nport: 1\ns3_prefixes: [s3://bucket/a]\nqueue_limit: 5\n"
    )
    environment = {
        "SPACEPORT_SERVE_PORT": "2",
        "SPACEPORT_SERVE_HOSTS": "lab.example, Other.example",
        "HOME": "/x",
    }
    s = load(file, environment, port=3, host=None)
    assert (s.data, s.port, s.host, s.queue_limit) == (tmp_path / "scenes", 3, "127.0.0.1", 5)
    assert s.roots == (tmp_path / "scenes", Path("/mnt/flights"))
    assert s.s3_prefixes == ("s3://bucket/a/",)
    assert {"lab.example", "other.example", "localhost"} <= s.allowed_hosts
    assert load(file, environment).port == 2
    assert load(None, {"SPACEPORT_SERVE_SETTINGS": str(file)}).port == 1
    assert load(None, {"SPACEPORT_DATA": "/d"}).data == Path("/d")
    assert load(None, {"SPACEPORT_DATA": "/d", "SPACEPORT_SERVE_DATA": "/e"}).data == Path("/e")


@pytest.mark.parametrize(
    "values",
    [
        {"SPACEPORT_SERVE_PROT": "1"}, {"SPACEPORT_SERVE_PORT": "x"}, {"SPACEPORT_SERVE_PORT": "70000"},
        {"SPACEPORT_SERVE_CORS_ORIGINS": "*"}, {"SPACEPORT_SERVE_CORS_ORIGINS": "null"},
        {"SPACEPORT_SERVE_CORS_ORIGINS": "https://*.example.com"},
        {"SPACEPORT_SERVE_CORS_ORIGINS": "https://a.example/"},
        {"SPACEPORT_SERVE_CORS_ORIGINS": "a.example"}, {"SPACEPORT_SERVE_HOSTS": "*"},
        {"SPACEPORT_SERVE_HOSTS": "a:80"},
        {"SPACEPORT_SERVE_WEBHOOK_HOSTS": "*"}, {"SPACEPORT_SERVE_WEBHOOK_HOSTS": "https://a.example"},
        {"SPACEPORT_SERVE_WEBHOOK_HOSTS": "localhost"}, {"SPACEPORT_SERVE_S3_PREFIXES": "s3://"},
        {"SPACEPORT_SERVE_S3_PREFIXES": "bucket/x"}, {"SPACEPORT_SERVE_S3_PREFIXES": "s3://bucket/*"},
        {"SPACEPORT_SERVE_QUEUE_LIMIT": "0"}, {"SPACEPORT_SERVE_EMAIL_DOMAINS": "@x"},
        {"SPACEPORT_SERVE_SETTINGS": "/none"},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_said(values: dict[str, str]) -> None:
    with pytest.raises(ParamsError):
        load(None, values)
