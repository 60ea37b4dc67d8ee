"""The daemon is killed before and after its durable writes and messages, through all states of a build.

NIXBUILD_TEST_KILLS=all walks through every one of them (minutes); by default some, spread over all.
"""

import json
import os
import subprocess
import threading

import conftest
import pytest
from conftest import wait_until

import paper

pytestmark = pytest.mark.skipif(conftest.SERVER != "nixbuild", reason="kills our daemon")

SAMPLE = 30
STRIDE = 7919  # prime: a part of the walk is spread over the whole of it
NOBODY_IS_TRACED = 77


class TracedDaemon:
    """A daemon that dies at the `limit`-th of its writes and messages."""

    def __init__(self, server, limit):
        end, ready = os.pipe()
        command = [paper.program("killed-at"), str(limit), *server.command("nixbuildd")]
        with open(server.state / "traced.log", "ab") as log:
            self.process = subprocess.Popen(
                [*map(str, command), "--ready-fd", str(ready)],
                pass_fds=[ready], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        os.close(ready)
        self.ready = os.read(end, 1) != b""
        os.close(end)

    def ended(self):
        """How many there were."""
        out = self.process.communicate(timeout=60)[0]
        assert self.process.returncode == 0, (self.process.returncode, out)
        return int(out.split()[0])


def ask(server, tag, milliseconds, answers):
    """One client; a connection that is lost is no answer."""
    try:
        with server.session() as session:
            answers[tag] = server.build(session, tag, milliseconds)[:2]
    except (EOFError, OSError, AssertionError):
        answers[tag] = None


def ask_for_both(server, round_):
    """One build that runs and one that waits for its processor: their clients' answers."""
    answers = {}
    clients = [
        threading.Thread(target=ask, args=(server, f"{name}-{round_}", milliseconds, answers))
        for name, milliseconds in (("first", 60), ("second", 10))
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60)
        assert not client.is_alive()
    return answers


def check_aftermath(server, round_):
    """Whatever was lost, asking again brings it, once; and nothing else stays."""
    for tag, answer in ask_for_both(server, round_).items():
        assert answer and answer[0] in (paper.BUILT, paper.ALREADY_VALID), (tag, answer)
        with server.session() as session:
            out = paper.path_of(tag, tag)
            assert server.contents(session, out) == f"made by {tag}\n".encode()
        records = [build for build in server.ask("builds") if f"-{tag}." in build["derivation"]]
        assert [record["status"] for record in records] == ["Built"], json.dumps(records, indent=1)
    wait_until(lambda: not server.processes("nixbuild-runner") and not server.processes("emulator"))
    wait_until(lambda: not [name for name in os.listdir(server.state / "run") if not name.startswith(".")])
    assert os.listdir(server.state / "store/drafts") == []


def stop_daemon(server):
    for pid in server.processes("nixbuildd"):
        os.kill(pid, 15)
    wait_until(lambda: not server.processes("nixbuildd"))


def test_the_daemon_may_die_anywhere(scratch):
    server = paper.Paper(scratch, cpus=1)
    conftest.import_kernel(server.state)
    try:
        stop_daemon(server)
        # Without a kill: how long the walk is.
        traced = TracedDaemon(server, 1 << 40)
        if not traced.ready and traced.process.wait(10) == NOBODY_IS_TRACED:
            pytest.skip("processes may not be traced here")
        assert all(answer[0] == paper.BUILT for answer in ask_for_both(server, "whole").values())
        stop_daemon(server)
        whole = traced.ended()
        assert whole > 100
        every = os.environ.get("NIXBUILD_TEST_KILLS") == "all"
        points = range(1, whole + 1) if every else [1 + i * STRIDE % whole for i in range(SAMPLE)]
        killed = 0
        for point in points:
            traced = TracedDaemon(server, point)
            ask_for_both(server, point)
            stop_daemon(server)
            killed += traced.ended() == point
            try:
                check_aftermath(server, point)
            except Exception as failure:
                raise AssertionError(f"killed at {point} of {whole}") from failure
            stop_daemon(server)
        print(f"killed {killed} times, of {whole} writes and messages")
        assert killed > len(points) // 2
        assert server.ask("path", "verify")["findings"] == []
    finally:
        for name in ("daemon.log", "traced.log"):
            if (server.state / name).exists():
                print(f"--- {name}\n" + (server.state / name).read_text(errors="replace")[-10000:])
        server.end()
