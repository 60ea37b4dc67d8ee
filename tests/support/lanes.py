"""Jobs on a machine's processors: some side by side on lanes, what is longest begins first, each is measured.

A job is a function that runs in a process of its own. Whatever it starts, daemons that went into the
background included, ends with it and is counted with it: cpu seconds are those of the whole family.
"""

import ctypes
import dataclasses
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
import traceback
from multiprocessing import connection
from pathlib import Path

SET_CHILD_SUBREAPER = 36  # prctl(2)
PATIENCE_WITH_ORPHANS = 20

processes = multiprocessing.get_context("fork")


@dataclasses.dataclass
class Report:
    """What a job says of itself; the measured figures are added by whoever ran it."""

    passed: int = 0
    failed: list = dataclasses.field(default_factory=list)
    skipped: list = dataclasses.field(default_factory=list)
    cases: list = dataclasses.field(default_factory=list)  # (name, seconds)
    machines: int = 0
    objects: int = 0
    good: bool = True  # whether what needs this job can begin
    wall: float = 0.0
    cpu: float = 0.0
    begin: float = 0.0
    lane: int = 0


@dataclasses.dataclass
class Job:
    stage: str
    name: str
    act: object  # called with the Report
    needs: tuple = ()  # names of jobs that have to be good before
    expected: float = 1.0  # seconds, for the order only


def cpu_of(who):
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def reap_orphans(patience=PATIENCE_WITH_ORPHANS):
    """Waits for what the job has left, so that it is counted; what does not end by itself is ended."""
    deadline = time.monotonic() + patience
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid:
            continue
        if time.monotonic() > deadline:
            for entry in children_of(os.getpid()):
                words = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                print(f"left running, and ended: {words[:200]}", flush=True)
                os.kill(entry, signal.SIGKILL)
            deadline = time.monotonic() + 1  # their children are ours then
        time.sleep(0.05)


def children_of(pid):
    return [int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()]


def interrupted(*_):
    raise KeyboardInterrupt


def work(job, output, answer):
    """In the job's own process."""
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, interrupted)
    os.dup2(output, 1)
    os.dup2(output, 2)
    report = Report()
    started = time.monotonic()
    try:
        job.act(report)
    except KeyboardInterrupt:
        reap_orphans(patience=2)
        os._exit(1)
    except BaseException:  # noqa: BLE001 # a fault of the job, told with it
        traceback.print_exc()
        report.failed.append(f"{job.stage}: {job.name} could not be run")
        report.good = False
    report.wall = time.monotonic() - started
    reap_orphans()
    report.cpu = cpu_of(resource.RUSAGE_SELF) + cpu_of(resource.RUSAGE_CHILDREN)
    sys.stdout.flush()
    answer.send_bytes(pickle.dumps(report))
    os._exit(0)


class Running:
    def __init__(self, job, lane, begin):
        self.job, self.lane, self.begin = job, lane, begin
        self.output = tempfile.TemporaryFile()
        self.answer, far = processes.Pipe(duplex=False)
        self.process = processes.Process(target=work, args=(job, self.output.fileno(), far))
        self.process.start()
        far.close()

    def finish(self):
        try:
            report = pickle.loads(self.answer.recv_bytes())
        except EOFError:
            report = Report(failed=[f"{self.job.stage}: {self.job.name} died"], good=False)
        self.process.join()
        report.lane, report.begin = self.lane, self.begin
        self.output.seek(0)
        return report, self.output.read().decode(errors="replace")


def run(jobs, lanes, say):
    """[(job, report)] in the order of their ends. A job whose need was not good is left out and told."""
    waiting = sorted(jobs, key=lambda job: -job.expected)
    names = {job.name for job in jobs}
    good, bad, running, done = set(), set(), [], []
    free = list(range(lanes))
    origin = time.monotonic()
    try:
        while waiting or running:
            for job in list(waiting):
                needs = [need for need in job.needs if need in names]
                if any(need in bad for need in needs):
                    waiting.remove(job)
                    bad.add(job.name)
                    say(f"left out: {job.name}, which needs what failed")
                elif free and all(need in good for need in needs):
                    waiting.remove(job)
                    running.append(Running(job, free.pop(0), time.monotonic() - origin))
            ended = connection.wait([one.answer for one in running])
            for one in [one for one in running if one.answer in ended]:
                running.remove(one)
                report, output = one.finish()
                free.append(one.lane)
                (good if report.good else bad).add(one.job.name)
                done.append((one.job, report))
                say(f"{one.job.stage}: {one.job.name}: {report.passed} passed, {len(report.failed)} failed, "
                    f"{report.wall:.0f} s, {report.cpu:.0f} cpu-s")  # fmt: skip
                if output.strip():
                    say("\n".join("    " + line for line in output.rstrip().splitlines()))
    except KeyboardInterrupt:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.join(30)
        raise
    return done
