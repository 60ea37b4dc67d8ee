"""A pytest plugin: one line of JSON for each case, on the serial line that tests/kvm/run reads."""

import json

LINE = "/dev/ttyS1"
MOST = 12_000  # characters of a failure: the line is slow
seconds = {}


def tell(record):
    with open(LINE, "w", encoding="ascii") as line:
        line.write(json.dumps(record) + "\n")


def pytest_collection_finish(session):
    tell({"planned": [item.nodeid for item in session.items]})


def pytest_collectreport(report):
    if report.failed:
        tell({"case": report.nodeid, "outcome": "error", "seconds": 0, "message": report.longreprtext[-MOST:]})


def pytest_runtest_logreport(report):
    """A case whose set-up failed has no call; one whose clean-up failed has two reports, and the last one counts."""
    seconds[report.nodeid] = seconds.get(report.nodeid, 0) + report.duration
    if report.when == "call" or report.outcome != "passed" and (report.when == "setup" or report.failed):
        captured = "".join(f"--- {title}\n{text}\n" for title, text in report.sections)
        message = report.longreprtext if report.outcome == "skipped" else f"{report.longreprtext}\n{captured}"
        outcome = "error" if report.failed and report.when != "call" else report.outcome
        half = MOST // 2
        if len(message) > MOST:
            message = f"{message[:half]}\n[…]\n{message[-half:]}"
        spent = round(seconds[report.nodeid], 1)
        tell({"case": report.nodeid, "outcome": outcome, "seconds": spent, "message": message})
