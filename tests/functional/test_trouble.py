"""A daemon whose surroundings fail for a while (disk, descriptors, database) serves everybody afterwards without a
restart, and says meanwhile what is wrong; and it ends in good order whatever it waits for."""

import json
import os
import resource
import signal
import subprocess
import threading
import time

import conftest
import pytest
from conftest import SERVER, wait_until

import daemon_state
import paper
import peers
import serve_wire
import worker_wire

pytestmark = pytest.mark.skipif(SERVER != "nixbuild", reason="looks into our daemon")


@pytest.fixture
def there(scratch):
    daemon = paper.Paper(scratch)
    # A disk of its own, which can be filled.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=384m,mode=0700", "tmpfs", daemon.state], check=True)
    try:
        conftest.import_kernel(daemon.state)
        yield daemon
    finally:
        daemon.end()
        subprocess.run(["umount", "--lazy", daemon.state], check=True)


def loops(daemon):
    """{loop: what the daemon says of it}"""
    done = subprocess.run(daemon.command("nixbuild", "health", "--json"), capture_output=True, timeout=60)
    assert done.returncode in (0, 1), done.stderr
    rows = {row["loop"]: row for row in json.loads(done.stdout)}
    assert done.returncode == (0 if all(row["state"] == "ok" for row in rows.values()) else 1)
    return rows


def doctor(daemon):
    done = subprocess.run(daemon.command("nixbuild", "doctor", "--json"), stdout=subprocess.PIPE, timeout=60)
    return next(row for row in json.loads(done.stdout) if row["check"] == "daemon")


def serves_and_builds(daemon, tag):
    with daemon.session() as session:
        status, message, out = daemon.build(session, tag)
        assert status == paper.BUILT, message
        assert daemon.contents(session, out) == f"made by {tag}\n".encode()


def test_a_full_disk(there):
    serves_and_builds(there, "before")
    pid = daemon_state.pid_of(there.state)
    assert doctor(there)["level"] == "ok"
    assert "sync" in doctor(there)["says"]
    filler = there.state / "filler"
    with open(filler, "wb", buffering=0) as file, pytest.raises(OSError):
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                if size == 1:
                    raise
    with there.session():
        wait_until(lambda: loops(there)["sync"]["failuresInARow"] > 1)
        assert loops(there)["sync"]["state"] == "failing"
        assert "No space left" in loops(there)["sync"]["error"]
        assert doctor(there)["level"] == "problem" and "sync" in doctor(there)["says"]
        filler.unlink()
        wait_until(lambda: all(row["state"] == "ok" for row in loops(there).values()))
    serves_and_builds(there, "after")
    assert daemon_state.pid_of(there.state) == pid
    log = (there.state / "daemon.log").read_text()
    assert " error sync: failed once: " in log and " info sync: goes on after " in log


def test_no_descriptors(there):
    serves_and_builds(there, "before")
    pid = daemon_state.pid_of(there.state)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    held = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (held, before[1]))
    assert highest >= held - 1
    # Whoever comes now waits, or is told that there is no room; what matters is what comes afterwards.
    meanwhile = [threading.Thread(target=try_to_build, args=(there, f"meanwhile-{number}")) for number in range(5)]
    for thread in meanwhile:
        thread.start()
    time.sleep(4)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    for thread in meanwhile:
        thread.join(60)
    serves_and_builds(there, "after")
    assert daemon_state.pid_of(there.state) == pid
    wait_until(lambda: all(row["state"] == "ok" for row in loops(there).values()))


def started(daemon):
    """A daemon as a service manager starts one: its exit status can be asked for."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        daemon.command("nixbuildd", "--ready-fd", str(writing)), pass_fds=[writing], stderr=subprocess.PIPE
    )
    os.close(writing)
    assert os.read(reading, 1) == b"\n"
    os.close(reading)
    return process


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", [0, 0.05, 1])
def test_two_signals_at_once(scratch, moment, second):
    """As timeout(1) sends them: to the daemon, and to its group."""
    daemon = paper.Paper(scratch)
    process = started(daemon)
    time.sleep(moment)
    process.send_signal(signal.SIGTERM)
    process.send_signal(second)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 0, said


def try_to_build(daemon, tag):
    try:
        with daemon.session() as session:
            daemon.build(session, tag, 500)
    except (OSError, EOFError, AssertionError):
        pass  # it went to a daemon that ended


def test_an_autostarted_daemon_keeps_nothing_of_its_first_client(there, scratch):
    with open(scratch / "held", "w") as held:
        os.set_inheritable(held.fileno(), True)
        subprocess.run(
            there.command("nixbuild", "builds"), check=True, stdout=subprocess.DEVNULL, close_fds=False,
            cwd=scratch, umask=0, env={**os.environ, "SSH_AUTH_SOCK": "/nowhere", "NIXBUILD_MAX_CPU": "7"},
        )  # fmt: skip
    pid = daemon_state.pid_of(there.state)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    status = open(f"/proc/{pid}/status").read()
    assert "Umask:\t0077\n" in status
    names = {line.split("=")[0] for line in open(f"/proc/{pid}/environ").read().split("\0") if line}
    assert names <= {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ"}
    assert not any(str(scratch / "held") in name for name in daemon_state.open_files(pid))


def test_the_state_folder_is_its_owner_s(scratch):
    """Whichever command makes it, and under whatever umask."""
    daemon = paper.Paper(scratch)
    for number, words in enumerate((["token", "add", "x"], ["builds"])):
        daemon.state = scratch / f"state-{number}"
        try:
            subprocess.run(daemon.command("nixbuild", *words), check=True, stdout=subprocess.DEVNULL, umask=0)
            assert daemon.state.stat().st_mode & 0o777 == 0o700
        finally:
            daemon.end()
    assert (daemon.state / "metadata.sqlite").stat().st_mode & 0o777 == 0o600
    daemon.state = scratch / "state-kernel"
    subprocess.run(["mkdir", "-m", "0755", daemon.state], check=True)
    conftest.import_kernel(daemon.state)  # as an earlier version left it
    try:
        subprocess.run(daemon.command("nixbuild", "builds"), check=True, stdout=subprocess.DEVNULL)
        assert daemon.state.stat().st_mode & 0o777 == 0o700
    finally:
        daemon.end()


def test_a_client_s_environment_names_no_folder(scratch):
    """Also where the forced command itself says which protocol is spoken."""
    daemon = paper.Paper(scratch)
    elsewhere = scratch / "elsewhere"
    command = [peers.program("nixbuild-serve"), "--stdio"]
    home = {"HOME": str(scratch), "XDG_STATE_HOME": str(scratch / "own"), "PATH": os.environ["PATH"]}
    home["NIXBUILD_STATE_DIR"] = str(elsewhere)
    for variable in ("SSH_CONNECTION", "SSH_ORIGINAL_COMMAND"):
        environment = {**home, variable: "nix-daemon --stdio"}
        words = [*command[:1], "--no-autostart", *command[1:]]
        done = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        assert done.returncode == 4 and b"no daemon runs for " in done.stderr, done.stderr
        assert str(elsewhere).encode() not in done.stderr
        assert not elsewhere.exists()
    # At home it is one's own.
    words = [*command[:1], "--no-autostart", *command[1:]]
    done = subprocess.run(words, env=home, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert str(elsewhere).encode() in done.stderr
    daemon.end()


def test_refused_requests_do_not_fill_the_log(there):
    """Neither by their number nor by what is in them."""
    subprocess.run(there.command("nixbuild", "builds"), check=True, stdout=subprocess.DEVNULL)
    session = worker_wire.Session(there.command("nixbuild-serve", "--stdio"), stderr=subprocess.DEVNULL)
    before = (there.state / "daemon.log").stat().st_size
    for number in range(2000):
        path = serve_wire.store_path("b", f"none-{number}")
        session.send(serve_wire.number(38), serve_wire.text(path))  # NarFromPath
        with pytest.raises(worker_wire.Refused):
            session.listen()
    session.end()
    wait_until(lambda: "more requests that failed" in (there.state / "daemon.log").read_text())
    assert (there.state / "daemon.log").stat().st_size - before < 4096
