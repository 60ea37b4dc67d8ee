"""What a daemon holds, seen from outside: to be compared before and after."""

import json
import os
import subprocess
import time
from pathlib import Path

import peers


def pid_of(state):
    """The process number of the one daemon of a state directory."""
    (pid,) = [
        pid
        for pid, words in peers.find_processes(str(state)).items()
        if words[0].rsplit("/", 1)[-1] == "nixbuildd"
    ]  # fmt: skip
    return pid


def open_files(pid):
    """What its descriptors are, without those of the database, whose connections are made as they are needed."""
    names = []
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            names.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        except FileNotFoundError:
            pass
    return sorted(name for name in names if "metadata.sqlite" not in name)


def state_of(pid):
    """(descriptors, threads, resident KiB) of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return len(open_files(pid)), int(status["Threads"]), int(status["VmRSS"].split()[0])


def settled(pid, descriptors=None):
    """Its state, once sessions have had the time to end."""
    deadline = time.monotonic() + 30
    while True:
        state = state_of(pid)
        if descriptors is not None and state[0] <= descriptors:
            return state
        if time.monotonic() > deadline or descriptors is None and deadline - time.monotonic() < 27:
            return state
        time.sleep(0.2)


def expect_empty(state):
    """What nobody holds is collected: no session has a lease, and no draft is left."""
    nixbuild = [peers.program("nixbuild"), "--state-dir", state]
    collected = json.loads(subprocess.run([*nixbuild, "gc", "--json"], check=True, capture_output=True).stdout)
    assert collected["pathsRemoved"] >= 1
    left = subprocess.run([*nixbuild, "path", "list", "--json"], check=True, capture_output=True).stdout
    assert json.loads(left) == []
    drafts = state / "store/drafts"
    assert drafts.is_dir() and not os.listdir(drafts)
