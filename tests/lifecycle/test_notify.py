"""Webhooks: who hears of what, that nobody waits for them, and that their URLs are shown nowhere."""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidestep import tasks
from sidestep.cli import main
from sidestep.config.fields import spec_fields
from sidestep.config.job import JobSpec
from sidestep.config.resolved import as_json, as_yaml
from sidestep.lifecycle import watching as module
from sidestep.lifecycle.job import Job
from sidestep.lifecycle.notify import news_of
from sidestep.lifecycle.reporter import Reporter
from sidestep.lifecycle.status import Spent, Status
from sidestep.lifecycle.watchdog import Watchdog
from sidestep.lifecycle.watching import Watching
from sidestep.runtime import jsonlines
from sidestep.runtime.errors import AgainError, BadDataError, ExitCode, SideStepError, StalledError
from sidestep.runtime.preemption import Preemption
from sidestep.runtime.secrets import hide
from tests.clock import Clock
from tests.receiver import TOKEN, Receiver, receiver

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # apprise's

MakeJob = Callable[..., Job]
DEAD = f"http://127.0.0.1:9/services/{TOKEN}"


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as hook:
        yield hook


@pytest.fixture(autouse=True)
def nobody_told() -> Iterator[None]:
    yield
    jsonlines.about(dict)


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """An estimate, with these settings of `runtime`."""

    def make(preemption: Preemption | None = None, **runtime: Any) -> Job:
        output = tmp_path / "out"
        spec = JobSpec.load(None, name="night", task="estimate", output_dir=output, runtime=runtime)
        return Job(spec, preemption or Preemption())

    return make


def attempt(
    job: Job, failure: BaseException | None = None, clock: Callable[[], float] = time.monotonic
) -> None:
    """An attempt that works, and ends by `failure`."""

    def work() -> None:
        with (
            Watching(job.spec, job.preemption) as watching,
            Reporter(job, 3600, clock, watching=watching) as reporter,
        ):
            reporter.begin("estimate")
            if isinstance(clock, Clock):
                clock.now += 1800
            reporter.update(step=3, steps=12, loss=0.5)
            if failure:
                raise failure

    if failure is None:
        work()
        return
    with pytest.raises(type(failure)):
        work()


@pytest.mark.parametrize(
    ("failure", "event", "code", "message"),
    [
        (None, "done", 0, ""),
        (BadDataError("the song is no song\n  take it out"), "failed", 65, "the song is no song"),
        (KeyError("oops"), "failed", 70, "'oops'"),
        (AgainError("stopped after step 3"), "preempted", 75, "stopped after step 3"),
        (KeyboardInterrupt(), "preempted", 75, "stopped by a signal"),
        (StalledError("nothing has advanced"), "stalled", 76, "nothing has advanced"),
    ],
)
def test_begin_and_end(
    hook: Receiver, make_job: MakeJob, failure: BaseException | None, event: str, code: int, message: str
) -> None:
    job = make_job(webhook=hook.url, price_per_hour=4)
    attempt(job, failure, Clock())
    first, last = hook.got
    assert (first["event"], first["attempt"], first["exit_code"]) == ("begin", 1, None)
    assert (last["event"], last["exit_code"], last["message"]) == (event, code, message)
    assert (last["step"], last["steps"], last["loss"]) == (3, 12, 0.5)
    assert (last["hours"], last["cost"], last["output"]) == (0.5, 2, job.output_store.place)
    for part in ("night", event, job.output_store.place, "cost 2"):
        assert part in last["text"]
    assert last["content"] == last["text"]


def test_several_urls_hear_the_same(hook: Receiver, make_job: MakeJob) -> None:
    attempt(make_job(webhook=[hook.url, hook.url]))
    assert sorted(hook.events) == ["begin", "begin", "done", "done"]


def test_what_ends_before_there_is_anything_to_report_is_told(hook: Receiver, make_job: MakeJob) -> None:
    """From the outermost frame: data and weights may be missing before any trainer exists."""
    spec = make_job(webhook=hook.url).spec.changed({"dataset_dir": "nowhere"})
    with pytest.raises(SideStepError) as failure:
        tasks.run(spec)
    assert hook.events == ["failed"]
    assert hook.got[0]["exit_code"] == failure.value.exit_code
    assert hook.got[0]["message"] == str(failure.value).splitlines()[0]


def test_a_job_that_has_nothing_to_do_says_nothing(hook: Receiver, make_job: MakeJob) -> None:
    job = make_job(webhook=hook.url)
    with Watching(job.spec, job.preemption) as watching, Reporter(job, 3600, watching=watching):
        pass
    assert hook.got == []


def test_notice_is_told_while_the_state_is_saved(hook: Receiver, make_job: MakeJob) -> None:
    """And once: the end by that notice is no news any more."""
    preemption = Preemption(grace_seconds=60)
    job = make_job(preemption, webhook=hook.url)

    def work() -> None:
        with (
            preemption,
            Watching(job.spec, job.preemption) as watching,
            Reporter(job, 3600, watching=watching) as reporter,
        ):
            reporter.begin("train")
            with preemption.deferred():
                os.kill(os.getpid(), signal.SIGTERM)
                until = time.monotonic() + 10
                while hook.events != ["begin", "preempted"] and time.monotonic() < until:
                    threading.Event().wait(0.01)
                assert hook.events == ["begin", "preempted"]  # before the save has ended
            raise AgainError("stopped after step 3")

    with pytest.raises(AgainError):
        work()
    assert hook.events == ["begin", "preempted"]
    assert hook.got[1]["exit_code"] == ExitCode.AGAIN


def test_a_bound_that_is_reached_is_no_preemption(hook: Receiver, make_job: MakeJob) -> None:
    preemption = Preemption()
    job = make_job(preemption, webhook=hook.url)

    def work() -> None:
        with (
            preemption,
            Watching(job.spec, job.preemption) as watching,
            Reporter(job, 3600, watching=watching) as reporter,
        ):
            reporter.begin("train")
            with preemption.deferred():
                preemption.request("runtime.max_hours is reached", is_urgent=False)
            raise SideStepError("runtime.max_hours is reached")

    with pytest.raises(SideStepError):
        work()
    assert hook.events == ["begin", "failed"]


def test_a_stall_is_told_though_the_main_thread_and_the_store_hang(
    hook: Receiver, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of the process is one thread, which ends it."""
    job, ended = make_job(webhook=hook.url), threading.Event()
    over = threading.Event()
    monkeypatch.setattr("sidestep.lifecycle.watchdog.LOOKS_EVERY", 0.01)
    monkeypatch.setattr("sidestep.lifecycle.watchdog.SECONDS_TO_TELL", 0.1)
    events: list[list[str]] = []

    def end(error: StalledError) -> None:
        events.append(list(hook.events))
        ended.set()

    with Watching(job.spec, job.preemption) as watching, Reporter(job, 3600, watching=watching) as reporter:
        reporter.begin("estimate")
        monkeypatch.setattr(type(job.output_store), "write_bytes", lambda *_: over.wait(30))
        with Watchdog(reporter, 0.05 / 60, 0.05 / 60, end):
            assert ended.wait(20)
        over.set()
        monkeypatch.undo()
    assert events == [["begin", "stalled"]]


@pytest.mark.parametrize("kind", ["dead", "hanging", "500", "404"])
def test_an_endpoint_that_does_not_work_costs_a_line_and_a_moment(
    kind: str,
    hook: Receiver,
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "SECONDS_TO_SEND", 0.2)
    hook.is_hanging, hook.status = kind == "hanging", int(kind) if kind.isdigit() else 200
    job = make_job(webhook=DEAD if kind == "dead" else hook.url)
    started = time.monotonic()
    attempt(job)
    assert time.monotonic() - started < 3
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1 and "127.0.0.1" in told[0] and TOKEN not in told[0] and "urlopen" not in told[0]
    assert Status.read((Path(job.output_store.place) / "status.json").read_bytes(), "").state == "done"


def test_a_user_and_a_password_in_it_are_sent_as_a_browser_does(hook: Receiver, make_job: MakeJob) -> None:
    attempt(make_job(webhook=hook.url.replace("http://", "HTTP://night:p%40ss@")))
    assert hook.authorizations == ["Basic bmlnaHQ6cEBzcw=="] * 2  # night:p@ss


def test_a_webhook_that_leads_elsewhere_is_told_and_not_followed(
    hook: Receiver, make_job: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    """The POST would arrive there as a GET without what it says."""
    hook.status, hook.leads_to = 301, f"{hook.url}/new"
    attempt(make_job(webhook=hook.url))
    assert hook.events == ["begin", "done"]
    (told,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "301" in told and "URL" in told and TOKEN not in told


def test_one_that_hangs_costs_no_other_its_time(
    hook: Receiver,
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(module, "SECONDS_TO_SEND", 0.5)
    file = tmp_path / "job.prom"
    with receiver() as failing:
        hook.is_hanging, failing.status = True, 500
        job = make_job(webhook=f"{hook.url} {failing.url}", metrics_file=str(file))
        wait: Callable[..., bool] = threading.Condition.wait_for
        seen: list[str] = []

        def wait_for(self: threading.Condition, *arguments: Any) -> bool:
            is_sent = wait(self, *arguments)
            if arguments[1:] and not seen:  # the first that is waited for is the one that hangs
                seen.extend([*failing.events, file.read_text()])
            return is_sent

        monkeypatch.setattr(threading.Condition, "wait_for", wait_for)
        watching = Watching(job.spec, job.preemption).__enter__()
        watching.begun()
        while "Error 500" not in caplog.text:
            time.sleep(0.01)
        time.sleep(0.05)  # it waits before it tries again
        watching.__exit__(BadDataError, BadDataError("no song"), None)
    assert seen[:-1] == ["begin", "begin", "failed"] and "sidestep_exit_code 65.0" in seen[-1]


def test_the_wait_at_the_end_is_within_the_grace(
    hook: Receiver, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.is_hanging = True
    monkeypatch.setattr(module, "SECONDS_TO_SEND", 30)
    clock = Clock()
    preemption = Preemption(grace_seconds=2, clock=clock)
    job = make_job(preemption, webhook=hook.url)
    started = time.monotonic()
    with preemption, Watching(job.spec, job.preemption) as watching:
        watching.begun()
        with preemption.deferred():
            preemption.request()
        clock.now = 0.9  # of the 2 s, less the reserve, a moment is left
    preemption.__exit__()
    assert time.monotonic() - started < 5


CANARY = f"https://hooks.example.com/services/T0/B0/{TOKEN}"


def test_the_url_is_shown_nowhere(tmp_path: Path) -> None:
    spec = JobSpec.load(None, task="estimate", output_dir=tmp_path / "out", runtime={"webhook": CANARY})
    job = Job(spec)
    job.output.keep_spec(spec)
    origins = {field.name: "default" for field in spec_fields().values()}
    shown = [
        *(repr(spec), as_yaml(spec, origins), as_json(spec, origins), spec.model_dump_json()),
        *(file.read_text() for file in (tmp_path / "out").iterdir()),
        *(hide(f"no {CANARY}"), hide(f"no /services/T0/B0/{TOKEN} there"), hide(TOKEN)),
    ]
    assert not [text for text in shown if TOKEN in text]
    assert spec.changed({"name": "other"}).runtime.webhook == (CANARY,)


def test_an_output_s_spec_leaves_it_to_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = JobSpec.load(
        None, output_dir=tmp_path / "out", audio_dir=".", runtime={"webhook": [CANARY, CANARY]}
    )
    Job(spec).output.keep_spec(spec)
    assert JobSpec.load(tmp_path / "out" / "job.yaml").runtime.webhook == ()
    monkeypatch.setenv("SIDESTEP_RUNTIME__WEBHOOK", f" {CANARY}  ntfy://{TOKEN}\n")
    assert JobSpec.load(tmp_path / "out" / "job.yaml").runtime.webhook == (CANARY, f"ntfy://{TOKEN}")


@pytest.mark.parametrize(
    "url",
    [f"hooks.example.com/{TOKEN}", f"https:///{TOKEN}", f"http://a:b/{TOKEN}", f"htp:/{TOKEN}", "https://"],
)
def test_a_url_that_is_none_is_refused_and_not_shown(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--webhook", url, "--dataset-dir", "x"]) == ExitCode.BAD_SPEC
    told = capsys.readouterr().err
    assert "runtime.webhook" in told and "https://" in told and TOKEN not in told
    assert TOKEN not in Path("sidestep.log").read_text()


@pytest.mark.parametrize(
    "platform", ["docker", "kubernetes", "helm", "slurm", "skypilot", "dstack", "runpod", "vast"]
)
def test_a_rendered_file_names_its_variable(platform: str, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"output_dir": "s3://b/out", "dataset_dir": "s3://b/t", "checkpoint_dir": "s3://b/c"}
    Path("job.yaml").write_text(json.dumps({"task": "train", **places, "runtime": {"webhook": CANARY}}))
    assert main(["render", platform, "job.yaml"]) == 0
    made = "".join(
        file.read_text() for file in Path().iterdir() if file.name not in ("job.yaml", "sidestep.log")
    )
    said = capsys.readouterr()
    assert TOKEN not in made + said.out + said.err
    assert "SIDESTEP_RUNTIME__WEBHOOK" in made + said.out


def by_apprise(url: str) -> str:
    """The same server, as apprise's JSON service reaches it."""
    return url.replace("http://", "json://")


def test_other_urls_go_through_apprise(hook: Receiver, make_job: MakeJob) -> None:
    job = make_job(webhook=by_apprise(hook.url))
    attempt(job)
    assert [one["title"] for one in hook.got] == ["night: attempt 1 has begun", "night: done"]
    assert job.output_store.place in hook.got[-1]["message"]


@pytest.mark.parametrize(
    ("kind", "fact"),
    [("dead", "Connection"), ("hanging", "answered"), ("two hanging", "answered"), ("500", "500")],
)
def test_apprise_costs_a_line_and_a_moment_where_its_server_does_not_work(
    kind: str,
    fact: str,
    hook: Receiver,
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it does must be in threads that the end of the process does not wait for; its own would be."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(module, "SECONDS_TO_SEND", 0.5)
    threads = set(threading.enumerate())
    hook.is_hanging, hook.status = "hanging" in kind, 500 if kind == "500" else 200
    url = by_apprise(DEAD if kind == "dead" else hook.url)
    started = time.monotonic()
    attempt(make_job(webhook=f"{url},{url}" if kind == "two hanging" else url))
    assert time.monotonic() - started < 3
    assert all(thread.daemon for thread in set(threading.enumerate()) - threads)
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1 and fact in told[0] and TOKEN not in caplog.text


def test_apprise_tries_again_once_its_server_is_back(
    hook: Receiver, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidestep.runtime.outbox.FIRST_PAUSE", 0.01)
    hook.status = 500
    job = make_job(webhook=by_apprise(hook.url))
    with Watching(job.spec, job.preemption) as watching:
        watching.begun()
        until = time.monotonic() + 10
        while len(hook.got) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        hook.status = 200
    assert len(hook.got) >= 3 and hook.got[-1]["title"] == "night: done"


@pytest.mark.parametrize("url", [f"nobody://{TOKEN}", f"tgram://{TOKEN}/4"])
def test_a_url_that_apprise_does_not_know_is_told_once_and_not_shown(
    url: str, make_job: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    attempt(make_job(webhook=url))
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert (
        len(told) == 1
        and "appriseit" in told[0]
        and TOKEN[:4] not in caplog.text
        and url[:10] not in caplog.text
    )


def test_what_others_say_by_apprise_s_logger_is_theirs(
    hook: Receiver, make_job: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that runs a job may use apprise itself."""
    hook.is_hanging = True
    job = make_job(webhook=by_apprise(hook.url))
    with Watching(job.spec, job.preemption) as watching:
        watching.begun()
        until = time.monotonic() + 10
        while not hook.got and time.monotonic() < until:
            time.sleep(0.01)
        logging.getLogger("apprise").warning("of the program's own")
        hook.over.set()
    assert "of the program's own" in caplog.text


def test_without_apprise_it_is_told_what_to_install(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    attempt(make_job(webhook=f"tgram://{TOKEN}/4"))
    (told,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert "side-step[notify]" in told and TOKEN not in told


def test_a_message_is_no_place_for_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", TOKEN)
    status = Status(
        name="night", task="train", message=f"refused: {TOKEN}", spent=Spent(seconds={"train": 36})
    )
    assert TOKEN not in json.dumps(dict(news_of("failed", status, "s3://b/out", None)))
