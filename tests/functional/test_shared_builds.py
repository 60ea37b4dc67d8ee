"""Two clients and one build, in all orders of coming, leaving and dying, with each way of keeping builds.

The machines are on paper; everything else is real.
"""

import itertools
import os
import threading
import time
from concurrent import futures

import conftest
import pytest
from conftest import wait_until

import paper

pytestmark = pytest.mark.skipif(conftest.SERVER != "nixbuild", reason="no other server promises this")

LONG, SHORT = 30_000, 3_000  # of builds that are to be ended, and of those that are to end
KEEP = {"abort": "false", "keep": "true", "for a second": "1s", "for an hour": "1h"}
LEAVERS = [(), ("first",), ("second",), ("first", "second"), ("second", "first")]
HOW = ["closes", "dies"]


class Asker(threading.Thread):
    """One client in a thread of its own."""

    def __init__(self, server, tag, keep, milliseconds):
        super().__init__()
        self.server, self.tag, self.milliseconds = server, tag, milliseconds
        self.session = server.session(env={**os.environ, "NIXBUILD_KEEP_BUILDS_RUNNING": keep})
        self.lines = []
        self.reader = threading.Thread(target=self._read)
        self.answer = None
        self.reader.start()
        self.start()

    def _read(self):
        for line in self.session.process.stderr:
            self.lines.append(line.decode().rstrip())

    def run(self):
        try:
            self.answer = self.server.build(self.session, self.tag, self.milliseconds)[:2]
        except (EOFError, OSError, ValueError):
            self.answer = None

    def sees(self, line, patience=60):
        wait_until(lambda: line in self.lines or not self.reader.is_alive(), patience)
        assert line in self.lines, self.lines

    def leave(self, how):
        process = self.session.process
        if how == "dies":
            process.kill()
        process.stdin.close()  # as the end of its sshd does
        self.join(30)
        assert not self.is_alive()

    def stay(self):
        self.join(60)
        assert not self.is_alive()
        self.session.process.stdin.close()

    def end(self):
        self.session.process.wait(30)
        self.reader.join(30)
        self.session.process.stdout.close()
        self.session.process.stderr.close()


def paper_lines(asker):
    return [line for line in asker.lines if line.startswith("paper line")]


def one(server, keep, leavers, how):
    """One combination; what is wrong with it."""
    tag = f"{keep}-{'-'.join(leavers) or 'nobody'}-{how}".replace(" ", "-")
    ended = len(leavers) == 2 and keep in ("abort", "for a second")
    milliseconds = LONG if ended else SHORT
    askers = {"first": Asker(server, tag, KEEP[keep], milliseconds)}
    askers["first"].sees("paper line 0")
    askers["second"] = Asker(server, tag, KEEP[keep], milliseconds)
    askers["second"].sees("paper line 0")
    for leaver in leavers:
        askers[leaver].leave(how)
    for name, asker in askers.items():
        if name not in leavers:
            asker.stay()
    wait_until(lambda: all(build["status"] != "running" for build in builds_of(server, tag)), 60)
    for asker in askers.values():
        asker.end()
    (build,) = builds_of(server, tag)
    wanted = "MiscFailure" if ended else "Built"
    if build["status"] != wanted:
        return f"{tag}: {build['status']} ({build['error']}), not {wanted}"
    for name, asker in askers.items():
        if name not in leavers:
            if asker.answer is None or asker.answer[0] != paper.BUILT:
                return f"{tag}: {name} was told {asker.answer}"
            if paper_lines(asker) != [f"paper line {i}" for i in range(10)]:
                return f"{tag}: {name} saw {asker.lines}"
    # Who comes back gets what there is, or has it built.
    with server.session() as session:
        status = server.build(session, tag, 20)[0]
    if status != (paper.BUILT if ended else paper.ALREADY_VALID):
        return f"{tag}: coming back gives {status}"
    return None


def builds_of(server, tag):
    return [build for build in server.ask("builds", "--limit", "1000") if f"-{tag}.drv" in build["derivation"]]


def test_every_way_to_share_and_to_leave(scratch):
    cases = list(itertools.product(KEEP, LEAVERS, HOW))
    server = paper.Paper(scratch, cpus=len(cases))
    conftest.import_kernel(server.state)
    try:
        started = time.monotonic()
        with futures.ThreadPoolExecutor(len(cases)) as pool:
            wrong = list(filter(None, pool.map(lambda case: one(server, *case), cases)))
        print(f"{len(cases)} cases in {time.monotonic() - started:.1f} s")
        assert not wrong, "\n".join(wrong)
        wait_until(lambda: not server.processes("nixbuild-runner"))
    finally:
        server.end()
