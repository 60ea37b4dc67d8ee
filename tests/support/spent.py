"""What a run of the tests has spent, printed as tables, kept as JSON, and held to tests/budget.json.

Machines and objects are counted, so more than the budget says fails. cpu seconds depend on the machine: they are
compared after a calibration loop has told how fast it is, and a stage that takes more than half again fails.
"""

import hashlib
import json
import time
from pathlib import Path

BUDGET = Path(__file__).resolve().parent.parent / "budget.json"
SLOWEST = 15
OVER = 1.5


def calibrate():
    """cpu seconds of a fixed piece of work: interpreted, hashed, and moved in memory."""
    started = time.process_time()
    total = 0
    for number in range(3_000_000):
        total += number * number & 0xFF
    block = bytes(1 << 20)
    digest = hashlib.sha256()
    for _ in range(200):
        digest.update(block)
        block = block[1:] + block[:1]
    return time.process_time() - started


def read_budget():
    return json.loads(BUDGET.read_text()) if BUDGET.exists() else {}


def expectations():
    """Seconds of each job in the run that the budget was taken from."""
    return read_budget().get("seconds", {})


def table(say, titles, rows):
    texts = [titles] + [[cell if isinstance(cell, str) else f"{cell:.0f}" for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(titles))]
    for row in texts:
        say("  ".join(cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths))))


class Run:
    """From its making to its telling."""

    def __init__(self, whole):
        self.whole = whole  # every stage, nothing more: what the budget is about
        self.speed = calibrate()
        self.started = time.monotonic()

    def tell(self, done, build, lanes, say):
        """Prints and keeps what was spent; what went over the budget, as names of failures."""
        wall = time.monotonic() - self.started
        speed = (self.speed + calibrate()) / 2
        stages = {}
        for job, report in done:
            stages.setdefault(job.stage, []).append((job, report))
        figures = {name: self.stage_figures(entries) for name, entries in stages.items()}
        say("== stages (wall: from the first job's beginning to the last one's end; lanes: seconds that jobs held a lane;")
        say("   idle: of these, seconds without cpu; all in seconds)")
        table(
            say,
            ["stage", "wall", "lanes", "cpu", "idle", "machines", "objects", "cases"],
            [[name, f["wall"], f["lanes"], f["cpu"], f["lanes"] - f["cpu"], f["machines"], f["objects"], f["cases"]]
             for name, f in figures.items()],
        )  # fmt: skip
        say("== lanes")
        rows = []
        for lane in range(lanes):
            held = [report for _, report in done if report.lane == lane]
            busy, cpu = sum(report.wall for report in held), sum(report.cpu for report in held)
            rows.append([str(lane + 1), wall, busy, cpu, wall - busy, busy - cpu])
        table(say, ["lane", "wall", "with a job", "cpu", "without a job", "waiting in jobs"], rows)
        machines = {job.name: report.machines for job, report in done if report.machines}
        say(f"== machines booted: {sum(machines.values())}")
        for name, number in sorted(machines.items(), key=lambda entry: -entry[1]):
            say(f"  {number:4} {name}")
        slowest = sorted((case for _, report in done for case in report.cases), key=lambda case: -case[1])[:SLOWEST]
        say(f"== the {SLOWEST} slowest tests")
        for name, seconds in slowest:
            say(f"  {seconds:6.1f} s  {name}")
        say(f"== {wall:.0f} s in all; calibration {speed:.3f} s")
        record = {
            "wall": wall,
            "calibration": speed,
            "lanes": lanes,
            "stages": figures,
            "machines": machines,
            "objects": {job.name: report.objects for job, report in done if report.objects},
            "seconds": {job.name: round(report.wall, 1) for job, report in done},
            "cpu": {job.name: round(report.cpu, 1) for job, report in done},
            "slowest": slowest,
        }
        build.mkdir(parents=True, exist_ok=True)
        (build / "tests-spent.json").write_text(json.dumps(record, indent=1) + "\n")
        return self.over_budget(record, say) if self.whole else []

    @staticmethod
    def stage_figures(entries):
        reports = [report for _, report in entries]
        begin = min(report.begin for report in reports)
        return {
            "wall": max(report.begin + report.wall for report in reports) - begin,
            "lanes": sum(report.wall for report in reports),
            "cpu": sum(report.cpu for report in reports),
            "machines": sum(report.machines for report in reports),
            "objects": sum(report.objects for report in reports),
            "cases": sum(report.passed + len(report.failed) + len(report.skipped) for report in reports),
        }

    @staticmethod
    def over_budget(record, say):
        budget = read_budget()
        if not budget:
            say("there is no tests/budget.json to hold this to")
            return []
        over = []
        for kind in ("machines", "objects"):
            for name, number in record[kind].items():
                allowed = budget[kind].get(name, 0)
                if number > allowed:
                    over.append(f"budget: {name} has {number} {kind}, {allowed} are planned (tests/budget.json)")
        scale = record["calibration"] / budget["calibration"]
        for name, figures in record["stages"].items():
            planned = budget["cpu"].get(name)
            if planned is None:
                over.append(f"budget: stage {name} is not in tests/budget.json")
            elif figures["cpu"] > OVER * planned * scale:
                over.append(
                    f"budget: {name} took {figures['cpu']:.0f} cpu seconds, planned are {planned * scale:.0f} on this machine"
                )
        return over
