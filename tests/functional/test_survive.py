"""Builds outlive the connection that asked for them and the daemon that started them."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import conftest
import peers
import pytest
from conftest import wait_until

pytestmark = pytest.mark.skipif(conftest.SERVER != "nixbuild", reason="no other server promises this")

# Long enough to be caught in the middle, also under software emulation.
STEPS = 20
BODY = f"i=0; while [ $i -lt {STEPS} ]; do echo step-$i; i=$((i+1)); $busybox/bin/busybox sleep 1; done; echo made > $out"


@pytest.fixture(scope="module")
def server(module_scratch):
    config = module_scratch / "nixbuild.toml"
    config.write_text("[settings]\nkeep-builds-running = 300\n")
    with conftest.Server(module_scratch, config=config) as started:
        yield started
        conftest.keep_log(started)


@pytest.fixture(scope="module")
def client(module_scratch, server):
    return peers.Client(module_scratch, "2.8.0", name="client", sshd=server)


class Asking:
    """A client that builds, read line by line as it goes."""

    def __init__(self, client, server, small, tag, body=BODY):
        command = [
            "nix-build", *small.arguments(tag, body=body), "--no-out-link", "-j0",
            "--builders", server.builders(),
        ]  # fmt: skip
        self.process = subprocess.Popen(
            [str(word) for word in command],
            env=client.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def wait_for(self, text, patience=120):
        deadline = time.monotonic() + patience
        while not any(text in line for line in self.lines):
            assert time.monotonic() < deadline and self.process.poll() is None, self.lines
            time.sleep(0.05)

    def steps(self):
        return [line for line in self.lines if line.startswith("step-")]

    def end(self, patience=180):
        out = self.process.stdout.read()
        self.process.wait(patience)
        self.reader.join(10)
        return out.strip()

    def cut(self):
        """Ends the client with all its helpers at once, as a lost network would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        for pid in peers.find_processes(str(self.process.pid)):
            if os.getsid(pid) == self.process.pid:
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)


def runners(server):
    """Process numbers of the runners of this server."""
    needle = str(server.state_dir / "run")
    found = peers.find_processes(needle)
    return {pid for pid, words in found.items() if os.path.basename(words[0]) == "nixbuild-runner"}


def builds_of(server, tag):
    done = subprocess.run(
        [peers.program("nixbuild"), "--state-dir", server.state_dir, "builds", "--json"],
        check=True, stdout=subprocess.PIPE, text=True, timeout=60,
    )  # fmt: skip
    return [line for line in json.loads(done.stdout) if tag in line["derivation"]]


def folders(server):
    return sorted(p.name for p in Path(server.state_dir / "run").iterdir() if not p.name.startswith("."))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_daemon_ends_in_the_middle(client, server, small, how):
    tag = f"survive-{how.name.lower()}"
    first = Asking(client, server, small, tag)
    first.wait_for("step-3")
    machines = runners(server)
    assert len(machines) == 1
    daemon = server.daemon_pid()
    os.kill(daemon, how)
    first.end()
    assert first.process.returncode != 0
    wait_until(lambda: server.daemon_pid() is None)
    time.sleep(1)
    assert runners(server) == machines
    again = Asking(client, server, small, tag)
    again.wait_for("step-0")
    assert server.daemon_pid() != daemon
    assert runners(server) == machines
    path = again.end()
    assert again.process.returncode == 0, again.lines
    assert client.real(path).read_text() == "made\n"
    # From the first line to the last, none of them twice, and the machine was started once.
    assert again.steps() == [f"step-{i}" for i in range(STEPS)]
    assert len(builds_of(server, tag)) == 1
    wait_until(lambda: not runners(server) and not folders(server))


def test_connection_is_cut_and_the_result_is_there(client, server, small):
    tag = "survive-cut"
    first = Asking(client, server, small, tag)
    first.wait_for("step-2")
    machines = runners(server)
    first.cut()
    time.sleep(2)
    assert runners(server) == machines
    wait_until(lambda: not runners(server), 120)
    started = time.monotonic()
    again = Asking(client, server, small, tag)
    path = again.end()
    assert again.process.returncode == 0, again.lines
    assert time.monotonic() - started < STEPS
    assert client.real(path).read_text() == "made\n"
    assert len(builds_of(server, tag)) == 1


def test_dead_runner_leaves_nothing_behind(client, server, small):
    tag = "survive-dead"
    first = Asking(client, server, small, tag)
    first.wait_for("step-1")
    (machine,) = runners(server)
    os.kill(server.daemon_pid(), signal.SIGKILL)
    os.kill(machine, signal.SIGKILL)
    first.end()
    wait_until(lambda: server.daemon_pid() is None)
    assert folders(server)
    # The policy keeps builds: it is started again, on another machine, and the log goes on.
    again = Asking(client, server, small, tag)
    again.wait_for("[nixbuild] building with")
    wait_until(lambda: len(runners(server)) == 1 and machine not in runners(server))
    path = again.end()
    assert again.process.returncode == 0, again.lines
    assert client.real(path).read_text() == "made\n"
    assert len(builds_of(server, tag)) == 1
    wait_until(lambda: not folders(server))
