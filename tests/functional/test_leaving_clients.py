"""A thousand clients that leave in the middle: nothing of them stays in the daemon."""

import random
import subprocess

import pytest
from conftest import SERVER

import daemon_state
import peers
import serve_wire
import worker_wire
from serve_wire import number, text, texts

pytestmark = pytest.mark.skipif(SERVER != "nixbuild", reason="looks into our daemon")

SESSIONS = 1000
WARM_UP = 200
LARGE = 8 << 20
ADD_TO_STORE_NAR, QUERY_PATH_INFO = 39, 26


def serve(state):
    return serve_wire.Session([peers.program("nixbuild-serve"), "--state-dir", state, "--serve", "--write"])


def worker(state):
    command = [peers.program("nixbuild-serve"), "--state-dir", state, "--stdio"]
    return worker_wire.Session(command, stderr=subprocess.DEVNULL)


def small_nar(tag):
    """(pieces, size, SHA-256) of the archive of a file with that number in it."""
    nar = serve_wire.OPEN + text("regular") + text("contents") + text(f"number {tag}\n") + text(")")
    return [nar], *serve_wire.measure([nar])


class Leaving:
    """Every way to leave, each a method; what a session needs is made as it goes."""

    def __init__(self, state, seed):
        self.state = state
        self.random = random.Random(seed)
        self.added = 0
        self.large = serve_wire.store_path("a", "large")
        self.large_size, digest = serve_wire.measure(serve_wire.big_file_nar(LARGE))
        with serve(state) as wire:
            wire.add(self.large, serve_wire.big_file_nar(LARGE), self.large_size, digest)

    def path(self):
        self.added += 1
        digits = "0123456789abcdfghijklmnpqrsvwxyz"
        tail = "".join(digits[self.added >> shift & 31] for shift in (10, 5, 0))
        return f"/nix/store/{'b' * 29}{tail}-left"

    def after_greeting(self):
        return serve(self.state)

    def after_worker_greeting(self):
        return worker(self.state)

    def within_a_number(self):
        wire = serve(self.state)
        wire.send(number(serve_wire.QUERY_VALID_PATHS)[: self.random.randrange(1, 8)])
        return wire

    def within_a_request(self):
        wire = serve(self.state)
        request = number(serve_wire.QUERY_PATH_INFOS) + texts([self.large, self.path()])
        wire.send(request[: self.random.randrange(8, len(request))])
        return wire

    def before_the_reply(self):
        wire = serve(self.state)
        wire.send(number(serve_wire.QUERY_PATH_INFOS), texts([self.large]))
        return wire

    def within_an_upload(self):
        wire = serve(self.state)
        wire.begin_add(self.path(), self.large_size, "0" * 64)
        first = next(iter(serve_wire.big_file_nar(LARGE)))
        wire.send(first, bytes(self.random.randrange(1 << 19)))
        return wire

    def after_an_upload(self):
        wire = serve(self.state)
        path = self.path()
        chunks, size, digest = small_nar(self.added)
        wire.add(path, chunks, size, digest)
        assert wire.valid(path) == [path]
        return wire

    def within_a_dump(self):
        wire = serve(self.state)
        wire.send(number(serve_wire.DUMP_STORE_PATH), text(self.large))
        wire.read(self.random.randrange(1, 1 << 18))
        return wire

    def with_nonsense(self):
        wire = serve(self.state)
        wire.send(self.random.randbytes(self.random.randrange(8, 200)))
        return wire

    def within_a_framed_upload(self):
        wire = worker(self.state)
        wire.send(
            number(ADD_TO_STORE_NAR), text(self.path()), text(""), text("0" * 64), texts([]),
            number(0), number(self.large_size), number(0), texts([]), text(""), number(0), number(1),
        )  # fmt: skip
        data = next(iter(serve_wire.big_file_nar(LARGE))) + bytes(1 << 17)
        frames = worker_wire.framed(data)
        wire.send(frames[: self.random.randrange(8, len(frames))])
        return wire

    def within_a_worker_request(self):
        wire = worker(self.state)
        request = number(QUERY_PATH_INFO) + text(self.large)
        wire.send(request[: self.random.randrange(1, len(request))])
        return wire

    def leave(self):
        """One session; its process may be killed, too, as sshd kills it."""
        ways = [
            self.after_greeting, self.after_worker_greeting, self.within_a_number, self.within_a_request,
            self.before_the_reply, self.within_an_upload, self.after_an_upload, self.within_a_dump,
            self.with_nonsense, self.within_a_framed_upload, self.within_a_worker_request,
        ]  # fmt: skip
        process = self.random.choice(ways)().process
        if self.random.randrange(2):
            process.kill()
        for end in filter(None, (process.stdin, process.stdout, process.stderr)):
            end.close()
        return process


def test_nothing_stays_of_a_thousand_sessions(scratch):
    state = scratch / "state"
    state.mkdir()
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    try:
        leaving = Leaving(state, seed)
        pid = daemon_state.pid_of(state)
        before = None
        processes = []
        for session in range(SESSIONS):
            if session == WARM_UP:
                before = daemon_state.settled(pid)
            processes.append(leaving.leave())
        for process in processes:
            process.wait(60)
        after = daemon_state.settled(pid, before[0])
        print(f"descriptors, threads, resident KiB: {before} before, {after} after")
        assert after[0] <= before[0], daemon_state.open_files(pid)
        assert after[1] <= before[1]
        assert after[2] < before[2] + 16 * 1024
        daemon_state.expect_empty(state)
    finally:
        peers.end_family(str(state))
