"""S3 servers of other makes: each works, or is named as what it is."""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidestep.config.schema import StorageSpec
from sidestep.runtime.errors import (
    AccessError,
    BadSpecError,
    MachineError,
    MissingInputError,
    SideStepError,
    StorageError,
)
from sidestep.runtime.secrets import hide
from sidestep.runtime.workspace import Workspace
from sidestep.storage.open import open_store
from sidestep.storage.retry import Limits, Retry
from sidestep.storage.store import Store
from sidestep.storage.transfer import pull
from tests.odd_server import Answer, OddServer, Request, odd_server, refusal
from tests.s3 import S3Server

PART = 5 * 2**20  # the smallest that S3 allows
SHORT = Limits(Retry(seconds=0.2, longest_pause=0.01), read_seconds=5, part_bytes=PART)
PAGE = b"\n<!DOCTYPE html><html><body>Please log in<br></html>"


@pytest.fixture
def odd(s3_server: S3Server) -> Iterator[OddServer]:
    s3_server.store("songs").write_bytes("file", b"content")
    with odd_server(s3_server.endpoint) as server:
        yield server


@pytest.fixture
def store(odd: OddServer) -> Store:
    return opened(odd)


def opened(odd: OddServer, place: str = "s3://studio/songs", **options: Any) -> Store:
    return open_store(place, StorageSpec(endpoint_url=odd.endpoint, **options), limits=SHORT)


def writes(store: Store, tmp_path: Path) -> None:
    """Files go there in each way, and come back."""
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * (PART // 128))
    store.write_bytes("new", b"1")
    store.upload(large, "large")
    assert store.create("once", b"2") is True
    assert store.read_bytes("new") == b"1"
    store.download("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()


@pytest.mark.parametrize("named_by", ["spec", "variable", "profile"])
def test_checksums_are_sent_to_no_other_server(
    odd: OddServer, named_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd.answer = lambda request: refusal(501, "NotImplemented") if request.has_checksum else None
    options = StorageSpec(endpoint_url=odd.endpoint if named_by == "spec" else None)
    if named_by == "variable":
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", odd.endpoint)
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = {odd.endpoint}\n")
    if named_by == "profile":
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    writes(open_store("s3://studio/songs", options, limits=SHORT), tmp_path)
    assert odd.requests


@pytest.mark.parametrize("chosen_by", ["variable", "profile"])
def test_checksums_are_sent_where_the_user_says_so(
    odd: OddServer, chosen_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chosen_by == "variable":
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    else:
        (tmp_path / "config").write_text("[default]\nrequest_checksum_calculation = when_supported\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    opened(odd).write_bytes("new", b"1")
    assert [request.has_checksum for request in odd.requests if request.method == "PUT"] == [True]


def test_aws_gets_checksums_however_it_is_named(odd: OddServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its endpoints are reached through a proxy, which passes them on to the server here."""
    monkeypatch.setenv("HTTP_PROXY", odd.endpoint)
    odd.answer = lambda request: Answer(200, b"", {"etag": '"1"'})
    for host, sent in (
        ("s3-fips.us-east-1.amazonaws.com", True),
        ("s3.cn-north-1.amazonaws.com.cn", True),
        ("bucket.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com", True),
        ("amazonaws.com.example.org", False),
        ("s3.notamazonaws.com", False),
    ):
        options = StorageSpec(endpoint_url=f"http://{host}", region="us-east-1")
        open_store("s3://studio/songs", options, limits=SHORT).write_bytes("new", b"1")
        assert host in odd.requests[-1].path and odd.requests[-1].has_checksum is sent, host


def test_a_setting_that_botocore_does_not_know(odd: OddServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "sometimes")
    with pytest.raises(BadSpecError, match="sometimes"):
        opened(odd).list_files()


def test_an_endpoint_variable_that_is_no_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    with pytest.raises(BadSpecError, match="minio:9000"):
        open_store("s3://studio/songs", StorageSpec()).list_files()


def later(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).strftime("%a, %d %b %Y %H:%M:%S GMT")


FULL = [
    (403, "QuotaExceeded"),
    (507, "XMinioStorageFull"),
    (507, ""),
    (400, "XMinioAdminBucketQuotaExceeded"),
]


@pytest.mark.parametrize(
    ("answer", "kind", "facts"),
    [
        (
            refusal(403, "RequestTimeTooSkewed", "<ServerTime>2031-05-06T07:08:09Z</ServerTime>"),
            MachineError,
            ["RequestTimeTooSkewed", "clock", "2031-05-06T07:08:09Z", str(datetime.now(UTC).year)],
        ),
        (refusal(403, "InvalidObjectState"), MissingInputError, ["InvalidObjectState", "archived", "songs"]),
        *((refusal(*said), StorageError, ["full", said[1]]) for said in FULL),
        (refusal(400, "KMS.DisabledException"), AccessError, ["KMS.DisabledException", "encrypts"]),
        (refusal(403, "AllAccessDisabled"), AccessError, ["AllAccessDisabled"]),
        (Answer(200, PAGE, {"content-type": "text/html"}), BadSpecError, ["endpoint_url", "127.0.0.1"]),
        (Answer(403, PAGE), BadSpecError, ["endpoint_url"]),
        (Answer(302, PAGE, {"location": "https://login"}), BadSpecError, ["endpoint_url"]),
        (Answer(302, b"", {"location": "https://login"}), BadSpecError, ["endpoint_url", "302"]),
        (Answer(308, b"", {"location": "https://127.0.0.1"}), BadSpecError, ["endpoint_url", "308"]),
        (
            refusal(400, "AuthorizationHeaderMalformed", "<Region>garage</Region>"),
            BadSpecError,
            ["storage.region", "garage"],
        ),
        (Answer(404, b"404 page not found"), BadSpecError, ["endpoint_url"]),
        (Answer(404, b'{"status": "not found"}'), BadSpecError, ["endpoint_url"]),
        (Answer(200, b"<html><body/></html>", {"content-type": "text/html"}), BadSpecError, ["endpoint_url"]),
    ],
)
def test_each_refusal_is_named_as_what_it_is(
    odd: OddServer, store: Store, answer: Answer, kind: type[SideStepError], facts: list[str]
) -> None:
    odd.answer = lambda request: answer if request.method == "GET" else None
    for use in (store.list_files, lambda: store.read_bytes("file")):
        before = len(odd.requests)
        with pytest.raises(kind) as caught:
            use()
        said = str(caught.value)
        assert type(caught.value) is kind and all(fact in said for fact in facts), said
        assert "Check the credentials" not in said
        # It does not pass, so it is not asked again; botocore tries the region that it was told.
        assert len(odd.requests) <= before + (2 if "storage.region" in facts else 1)


@pytest.mark.parametrize(
    ("answer", "fact"),
    [
        (Answer(302, b"", {"location": "https://login"}), "endpoint_url"),
        (Answer(301, PAGE, {"location": "https://elsewhere"}), "endpoint_url"),
        (refusal(301, "PermanentRedirect"), "storage.region"),
        (refusal(307, "TemporaryRedirect"), "storage.region"),
    ],
)
def test_all_that_is_asked_is_sent_elsewhere(odd: OddServer, store: Store, answer: Answer, fact: str) -> None:
    """What botocore asks to find the region, too."""
    odd.answer = lambda request: answer
    for use in (store.list_files, lambda: store.write_bytes("file", b"1"), lambda: store.stat("file")):
        before = len(odd.requests)
        with pytest.raises(BadSpecError) as caught:
            use()
        assert fact in str(caught.value) or use is not store.list_files
        assert len(odd.requests) <= before + 2


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_what_is_a_matter_of_credentials(odd: OddServer, store: Store, code: str) -> None:
    odd.answer = lambda request: refusal(403, code)
    with pytest.raises(AccessError, match="Check the credentials"):
        store.list_files()


def test_a_listing_that_is_none(odd: OddServer, store: Store) -> None:
    odd.answer = lambda request: Answer(200, b'{"status": "ok"}')
    with pytest.raises(BadSpecError, match="endpoint_url"):
        store.list_files()
    assert len(odd.requests) == 1


def test_clocks_apart_where_the_answer_has_no_words(odd: OddServer, store: Store) -> None:
    odd.answer = lambda request: Answer(403, b"", {"date": later(2)})
    with pytest.raises(MachineError, match="clock"):
        store.stat("file")
    for code in ("AccessDenied", "SignatureDoesNotMatch"):
        late = replace(refusal(403, code), headers={"date": later(2)})
        odd.answer = partial(lambda answer, request: answer, late)
        with pytest.raises(MachineError, match="clock"):
            store.list_files()
    odd.answer = lambda request: Answer(403, b"", {"date": later(0)})
    with pytest.raises(AccessError, match="Check the credentials"):
        store.stat("file")


def test_a_page_in_place_of_what_is_written(odd: OddServer, store: Store, tmp_path: Path) -> None:
    odd.answer = lambda request: Answer(200, PAGE, {"content-type": "text/html"})
    (tmp_path / "source").write_bytes(b"1")
    for use in (
        lambda: store.write_bytes("new", b"1"),
        lambda: store.create("new", b"1"),
        lambda: store.upload(tmp_path / "source", "new"),
    ):
        with pytest.raises(BadSpecError, match="endpoint_url"):
            use()


def test_files_that_are_pages_are_files(s3_server: S3Server, odd: OddServer, tmp_path: Path) -> None:
    odd.change = lambda request, headers: {
        **{name: value for name, value in headers.items() if not name.startswith("x-amz-")},
        "content-type": "text/html",
    }
    store = opened(odd)
    store.write_bytes("report.html", PAGE)
    assert store.read_bytes("report.html") == PAGE
    store.download("report.html", tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == PAGE


def test_a_proxys_page_for_a_server_that_restarts_passes(odd: OddServer, store: Store) -> None:
    left = [Answer(502, PAGE)] * 2
    odd.answer = lambda request: left.pop() if left else None
    assert store.read_bytes("file") == b"content"


@pytest.mark.parametrize(
    "refused",
    [refusal(403, "AccessDenied"), refusal(405, "MethodNotAllowed"), refusal(409, "FileImmutable")],
)
def test_a_bucket_that_lets_nothing_be_deleted(
    odd: OddServer, store: Store, refused: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    odd.answer = lambda request: refused if request.method == "DELETE" else None
    store.write_bytes("other", b"1")
    for name in ("file", "other"):
        store.child("").delete(name)
        assert store.stat(name)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "s3://studio/songs/file" in warnings[0] and "delete" in warnings[0]
    odd.answer = lambda request: refusal(403, "ExpiredToken") if request.method == "DELETE" else None
    with pytest.raises(AccessError, match="ExpiredToken"):
        store.delete("file")


REFUSED_CONDITIONS = [
    refusal(501, "NotImplemented"),
    refusal(405, "MethodNotAllowed"),
    refusal(400, "InvalidArgument"),
    refusal(400, "XNotImplemented"),
    refusal(403, "SignatureDoesNotMatch"),  # where a proxy takes the header away, and it was signed
]


@pytest.mark.parametrize("refused", REFUSED_CONDITIONS)
def test_a_server_without_conditional_writes(odd: OddServer, store: Store, refused: Answer) -> None:
    odd.answer = lambda request: refused if request.is_conditional else None
    assert store.create("1.json", b"mine") is True
    assert store.create("1.json", b"other") is False
    assert store.read_bytes("1.json") == b"mine"
    assert [one.creates_atomically for one in (store, store.child("deeper"))] == [False, False]


@pytest.mark.parametrize("refused", REFUSED_CONDITIONS)
def test_a_condition_that_was_kept_once_is_never_left_out(
    odd: OddServer, store: Store, refused: Answer
) -> None:
    """Else one odd answer would let two runs write."""
    assert store.create("1.json", b"mine") is True
    odd.answer = lambda request: refused if request.is_conditional else None
    with pytest.raises(SideStepError):
        store.create("2.json", b"mine")
    assert store.stat("2.json") is None and store.creates_atomically


def test_a_write_that_is_refused_for_another_reason_says_nothing_of_conditions(
    odd: OddServer, store: Store
) -> None:
    odd.answer = lambda request: refusal(400, "InvalidRequest") if request.method == "PUT" else None
    with pytest.raises(StorageError, match="InvalidRequest"):
        store.create("1.json", b"mine")
    odd.answer = lambda request: None
    assert store.create("1.json", b"mine") is True
    assert odd.requests[-1].is_conditional and store.creates_atomically


ETAGS: dict[str, Callable[[Request, str], str | None]] = {
    "none": lambda request, etag: None,
    "weak in HEAD": lambda request, etag: f"W/{etag}" if request.method == "HEAD" else etag,
    "upper case in HEAD": lambda request, etag: etag.upper() if request.method == "HEAD" else etag,
    "bare in HEAD": lambda request, etag: etag.strip('"') if request.method == "HEAD" else etag,
    "of something packed": lambda request, etag: etag[:-1] + '-gzip"' if request.method == "HEAD" else etag,
}


@pytest.mark.parametrize("how", ETAGS)
def test_servers_that_spell_the_etag_otherwise_or_have_none(
    s3_server: S3Server, odd: OddServer, tmp_path: Path, how: str
) -> None:
    def change(request: Request, headers: dict[str, str]) -> dict[str, str]:
        etag = ETAGS[how](request, headers["etag"]) if "etag" in headers else None
        rest = {name: value for name, value in headers.items() if name != "etag"}
        return {**rest, "etag": etag} if etag else rest

    odd.change = change
    store = opened(odd)
    writes(store, tmp_path)
    files = store.list_files()
    if how == "none":  # what the proxy leaves in listings
        files = [store.stat(file.path) or file for file in files]
        assert all(file.version.endswith(f"-{file.size}") for file in files)
    assert [store.stat(file.path) for file in files] == files
    folder = pull(store, files, Workspace(tmp_path / "workspace"), "Pulling songs")
    assert (folder / "large").read_bytes() == (tmp_path / "large").read_bytes()


def test_versions_of_listings_without_etags_are_those_of_head(odd: OddServer) -> None:
    entry = (
        "<Contents><Key>songs/file</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified>"
        "<Size>7</Size></Contents>"
    )
    listing = f"<ListBucketResult><IsTruncated>false</IsTruncated>{entry}</ListBucketResult>".encode()
    head = {"content-length": "7", "last-modified": "Fri, 02 Jan 2026 03:04:05 GMT"}
    odd.answer = lambda request: Answer(200, listing) if request.is_listing else Answer(200, b"", head)
    store = opened(odd)
    assert store.list_files() == [store.stat("file")]
    head["last-modified"] = "Fri, 02 Jan 2026 03:04:06 GMT"
    assert store.list_files() != [store.stat("file")]


def test_a_server_that_knows_the_older_listing_alone(s3_server: S3Server, odd: OddServer) -> None:
    names = [f"{number:03}" for number in range(7)]
    for name in names:
        s3_server.store("many").write_bytes(name, b"1")

    def in_the_older_way(request: Request) -> Request:
        path = request.path.replace("list-type=2&", "").replace("&list-type=2", "")
        return Request(request.method, f"{path}&max-keys=2" if request.is_listing else path, request.headers)

    odd.forward = in_the_older_way
    assert [file.path for file in opened(odd, "s3://studio/many").list_files()] == names


def test_a_bucket_whose_requesters_pay(odd: OddServer, tmp_path: Path) -> None:
    odd.answer = lambda request: (
        None if request.headers.get("x-amz-request-payer") == "requester" else refusal(403, "AccessDenied")
    )
    with pytest.raises(AccessError, match=r"storage\.request_payer"):
        opened(odd).list_files()
    store = opened(odd, request_payer="requester")
    writes(store, tmp_path)
    store.delete("new")
    assert {file.path for file in store.list_files()} == {"file", "large", "once"}


@pytest.mark.parametrize("point", ["accesspoint/tapes", "accesspoint:tapes"])
def test_an_access_point(odd: OddServer, point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a host name of its own, which the proxy takes for the bucket."""
    monkeypatch.setenv("HTTP_PROXY", odd.endpoint)
    host = "tapes-123456789012.s3-accesspoint.eu-west-1.amazonaws.com"

    def to_bucket(request: Request) -> Request:
        path = re.sub(r"^https?://[^/]+", "/studio", request.path)
        return Request(request.method, path, {**request.headers, "host": "localhost"})

    odd.forward = to_bucket
    place = f"s3://arn:aws:s3:eu-west-1:123456789012:{point}/songs"
    options = StorageSpec(endpoint_url="http://s3.eu-west-1.example.org", region="eu-west-1")
    store = open_store(place, options, limits=SHORT)
    assert [file.path for file in store.list_files()] == ["file"]
    writes(store.child("deeper"), tmp_path)
    assert store.place == place and store.stat("deeper/new")
    assert all(request.path.startswith("http://tapes-123456789012.") for request in odd.requests), host


def test_an_access_point_that_is_none(odd: OddServer) -> None:
    with pytest.raises(BadSpecError, match="accesspoint/NAME"):
        opened(odd, "s3://arn:aws:s3:eu-west-1:12:accesspoint/tapes/songs").list_files()


@pytest.mark.parametrize("where", ["path", "host"])
def test_a_bucket_that_is_named_twice(odd: OddServer, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"{odd.endpoint}/studio/" if where == "path" else "http://Studio.example.org:9000"
    with pytest.raises(BadSpecError, match="studio"):
        open_store("s3://studio/songs", StorageSpec(endpoint_url=endpoint), limits=SHORT).list_files()
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(BadSpecError, match="endpoint_url"):
        open_store("s3://studio/songs", StorageSpec(), limits=SHORT).list_files()
    assert not odd.requests


def test_a_server_that_is_called_as_the_bucket(odd: OddServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", odd.endpoint)
    odd.forward = lambda request: Request(
        request.method, re.sub(r"^https?://[^/]+", "", request.path), {**request.headers, "host": "localhost"}
    )
    options = StorageSpec(endpoint_url="http://studio.example.org", path_style=True)
    store = open_store("s3://studio/songs", options, limits=SHORT)
    assert [file.path for file in store.list_files()] == ["file"]
    vpc = StorageSpec(endpoint_url="http://studio-2.example.org")  # no part of that name
    assert open_store("s3://studio/songs", vpc, limits=SHORT).list_files()


def test_a_host_that_does_not_resolve(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tries in five seconds; a time-out has thirty."""
    now, pauses = [0.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)  # botocore's
    limits = Limits(Retry(clock=lambda: now[0]))
    options = StorageSpec(endpoint_url="http://no-such-host.invalid:9000")
    with pytest.raises(StorageError, match=r"no-such-host\.invalid.*resolved.*endpoint_url"):
        open_store("s3://studio/songs", options, limits=limits).list_files()
    assert len(pauses) == 2 and sum(pauses) <= 5
    pauses.clear()
    refused = StorageSpec(endpoint_url="http://127.0.0.1:1")
    with pytest.raises(StorageError, match="out of reach"):
        open_store("s3://studio/songs", refused, limits=limits).list_files()
    assert sum(pauses) >= 30


def test_the_secrets_of_a_role_are_hidden(
    odd: OddServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here of a program that gives them, as SSO's own and a role's do."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    given = {
        "AccessKeyId": "ASIAROLE",
        "SecretAccessKey": "s3cret-of-a-role",
        "SessionToken": "t0ken-of-a-role",
    }
    (tmp_path / "given").write_text(json.dumps({"Version": 1, **given}))
    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path}/given\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert hide("s3cret-of-a-role") == "s3cret-of-a-role"
    opened(odd).list_files()
    assert odd.requests[-1].headers["x-amz-security-token"] == "t0ken-of-a-role"
    assert hide("signed with s3cret-of-a-role, t0ken-of-a-role") == "signed with ***, ***"


@pytest.mark.parametrize(
    ("variables", "config", "kind", "fact"),
    [
        ({}, "credential_process = echo not-json", AccessError, "credential_process"),
        ({}, "credential_process = /no/such/program", AccessError, "/no/such/program"),
        (
            {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://evil.example/x"},
            "",
            AccessError,
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ),
        (
            {"AWS_WEB_IDENTITY_TOKEN_FILE": "/no/such/token", "AWS_ROLE_ARN": "arn:aws:iam::1:role/x"},
            "",
            AccessError,
            "AWS_WEB_IDENTITY_TOKEN_FILE",
        ),
        ({}, "s3 = yes", BadSpecError, "~/.aws/config"),
    ],
)
def test_what_gives_credentials_does_not_work(
    odd: OddServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    config: str,
    kind: type[SideStepError],
    fact: str,
) -> None:
    if kind is AccessError:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "config").write_text(f"[default]\n{config}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(SideStepError) as caught:
        opened(odd).list_files()
    assert type(caught.value) is kind and fact in str(caught.value)
    assert not odd.requests
