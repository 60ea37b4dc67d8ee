"""Clients that do not read, or say nothing more: each ends within its deadline and holds nothing afterwards."""

import subprocess
import time

import conftest
import pytest
from conftest import SERVER, wait_until

import daemon_state
import paper
import peers
import serve_wire
import worker_wire
from serve_wire import number, text, texts

pytestmark = pytest.mark.skipif(SERVER != "nixbuild", reason="looks into our daemon")

IDLE, STALLED, DEAF = 6, 3, 2
DEADLINES = f"[sessions]\nidle-seconds = {IDLE}\nstalled-seconds = {STALLED}\ndeaf-seconds = {DEAF}\n"
LARGE = 8 << 20
FLOOD = 2048  # KiB beside each of ten lines
WORKER_BUILD_DERIVATION, WORKER_NAR_FROM_PATH = 36, 38


@pytest.fixture
def there(scratch):
    daemon = paper.Paper(scratch, more=DEADLINES)
    conftest.import_kernel(daemon.state)
    try:
        with daemon.session() as session:
            size, digest = serve_wire.measure(serve_wire.big_file_nar(LARGE))
            session.add(serve_wire.store_path("a", "large"), serve_wire.big_file_nar(LARGE), size, digest)
            assert daemon.build(session, "warm-up")[0] == paper.BUILT  # the kernel stays open from now on
        before = daemon_state.settled(daemon_state.pid_of(daemon.state))
        yield daemon
        after = daemon_state.settled(daemon_state.pid_of(daemon.state), before[0])
        assert after[0] <= before[0], daemon_state.open_files(daemon_state.pid_of(daemon.state))
        daemon_state.expect_empty(daemon.state)
        assert not daemon.processes("nixbuild-runner")
    finally:
        daemon.end()


def worker(daemon, **more):
    return worker_wire.Session(daemon.command("nixbuild-serve", "--stdio"), stderr=subprocess.DEVNULL, **more)


def ends_within(process, seconds):
    """The session's exit status, although its client neither reads nor leaves."""
    began = time.monotonic()
    status = process.wait(seconds + 20)
    assert time.monotonic() - began < seconds + 5
    return status


def test_nobody_reads_the_log(there):
    """Whoever wants no log gets the result all the same; the log is kept, and not in memory."""
    pid = daemon_state.pid_of(there.state)
    before = peers.resident_peak_mib(pid)
    with there.session() as session:
        status, message, out = there.build(session, "flood", 500, paperFlood=str(FLOOD))
        assert status == paper.BUILT, message
        assert there.contents(session, out) == b"made by flood\n"
        assert there.build(session, "second")[0] == paper.BUILT
    assert peers.resident_peak_mib(pid) < before + 48
    flood = next(build for build in there.ask("builds") if "flood" in build["derivation"])
    log = subprocess.run(there.command("nixbuild", "log", str(flood["id"])), check=True, capture_output=True).stdout
    assert log.count(b"." * 1023 + b"\n") == 10 * FLOOD and b"paper line 9\n" in log


def test_nobody_reads_the_worker_protocol(there):
    """There the log and the result come on one stream: the client that takes nothing is given up, and its build."""
    session = worker(there)
    (drv, outputs, inputs, platform, builder, arguments, environment), _ = there.request(
        "flood", 60_000, paperFlood=str(FLOOD)
    )
    session.send(
        number(WORKER_BUILD_DERIVATION), text(drv), number(len(outputs)),
        *(text(part) for name, path in outputs.items() for part in (name, path, "", "")),
        texts(inputs), text(platform), text(builder), texts(arguments), number(len(environment)),
        *(text(part) for pair in sorted(environment.items()) for part in pair), number(0),
    )  # fmt: skip
    wait_until(lambda: there.ask("builds", "--running"))
    assert ends_within(session.process, 20) == 1
    wait_until(lambda: not there.ask("builds", "--running"))
    session.end()


@pytest.mark.parametrize("protocol", ["serve", "worker"])
def test_reading_stops_in_a_dump(there, protocol):
    path = serve_wire.store_path("a", "large")
    if protocol == "serve":
        session = there.session()
        session.send(number(serve_wire.DUMP_STORE_PATH), text(path))
    else:
        session = worker(there)
        session.send(number(WORKER_NAR_FROM_PATH), text(path))
    session.read(1000)
    assert ends_within(session.process, STALLED) == 1
    for end in filter(None, (session.process.stdin, session.process.stdout, session.process.stderr)):
        end.close()


def half_open(daemon, *words):
    return subprocess.Popen(
        daemon.command("nixbuild-serve", *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("words", [("--serve", "--write"), ("--stdio",)], ids=["serve", "worker"])
@pytest.mark.parametrize("said", [b"", b"\xeb"], ids=["nothing", "a byte"])
def test_nothing_comes_of_a_greeting(there, words, said):
    with half_open(there, *words) as process:
        process.stdin.write(said)
        process.stdin.flush()
        ends_within(process, STALLED)


def test_nothing_more_of_a_request(there):
    session = there.session()
    session.send(number(serve_wire.QUERY_VALID_PATHS)[:5])
    assert ends_within(session.process, STALLED) == 1
    assert b"error" in session.process.stderr.read()
    for end in (session.process.stdin, session.process.stdout, session.process.stderr):
        end.close()


def test_nothing_more_of_an_upload(there):
    session = there.session()
    session.begin_add(serve_wire.store_path("b", "half"), LARGE, "0" * 64)
    session.send(next(iter(serve_wire.big_file_nar(LARGE))), bytes(100_000))
    assert ends_within(session.process, STALLED) == 1
    for end in (session.process.stdin, session.process.stdout, session.process.stderr):
        end.close()


@pytest.mark.parametrize("protocol", ["serve", "worker"])
def test_nothing_between_two_requests(there, protocol):
    session = there.session() if protocol == "serve" else worker(there)
    assert ends_within(session.process, IDLE) in (0, 1)
    for end in filter(None, (session.process.stdin, session.process.stdout, session.process.stderr)):
        end.close()
