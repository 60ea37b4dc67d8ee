"""Builds under KVM with Debian's cloud kernel: side by side, in their jails, and past a daemon that dies."""

import os
import signal
import time
from pathlib import Path

import pytest
from conftest import wait_until
from lab import GROUPS, asking_for, client_of, emulators, kernel_version, record_of, runners, said_to

STEPS = 20
BODY = (
    f"i=0; while [ $i -lt {STEPS} ]; do echo step-$i; i=$((i+1)); $busybox/bin/busybox sleep 1; done; "
    "$busybox/bin/busybox uname -r > $out"
)
NAMESPACES = ("mnt", "net", "ipc", "uts", "pid")


class Emulator:
    """What /proc says of an emulator while it runs."""

    def __init__(self, pid, accelerator):
        self.accelerator = accelerator
        there = Path(f"/proc/{pid}")
        self.status = dict(
            line.split(":\t", 1) for line in there.joinpath("status").read_text().splitlines() if ":\t" in line
        )
        self.namespaces = {name: os.readlink(there / "ns" / name) for name in NAMESPACES}
        self.group = there.joinpath("cgroup").read_text().strip().removeprefix("0::")
        self.limits = self._limits(GROUPS / self.group.lstrip("/"))
        self.root = sorted(os.listdir(there / "root"))
        self.devices = sorted(os.listdir(there / "root/dev"))
        self.mounts = [line.split()[1:4] for line in there.joinpath("mounts").read_text().splitlines()]
        self.network = [line.split(":")[0].strip() for line in (there / "net/dev").read_text().splitlines()[2:]]
        self.environment = there.joinpath("environ").read_bytes().split(b"\0")

    @staticmethod
    def _limits(group):
        names = ("memory.max", "pids.max")
        return {name: (group / name).read_text().strip() for name in names if (group / name).exists()}

    def numbers(self, field):
        return [int(word) for word in self.status[field].split()]


@pytest.fixture(scope="module")
def pair(server, small):
    """Two builds by two clients, looked at while both run: their emulators, and what became of the builds."""
    client_of(server).run("nix-store", "--init")  # two that make one store at once are in each other's way
    with asking_for(server, small, "first", BODY) as first, asking_for(server, small, "second", BODY) as second:
        for asking in (first, second):
            asking.wait_for("step-0")
        running = [Emulator(pid, kind) for pid, kind in emulators(server).items()]
        results = []
        for asking in (first, second):
            path = asking.end()
            assert asking.process.returncode == 0, said_to(asking)
            assert asking.steps() == [f"step-{i}" for i in range(STEPS)]
            results.append(client_of(server).real(path).read_text().strip())
        yield running, results


def test_two_builds_run_at_once(pair, server):
    running, results = pair
    assert [each.accelerator for each in running] == ["kvm", "kvm"]
    assert results == [kernel_version("cloud")] * 2
    assert {record_of(server, tag)["accelerator"] for tag in ("first", "second")} == {"kvm"}


def test_emulators_are_users_of_their_own(pair):
    first, second = pair[0]
    group = os.stat("/dev/kvm").st_gid
    for each in (first, second):
        assert len(set(each.numbers("Uid"))) == len(set(each.numbers("Gid"))) == 1
        assert each.numbers("Uid")[0] > 1000 and each.numbers("Gid")[0] > 1000
        assert each.numbers("Groups") == [group]
    assert first.numbers("Uid") != second.numbers("Uid")


def test_emulators_have_no_rights(pair):
    for each in pair[0]:
        capabilities = [int(value, 16) for name, value in each.status.items() if name.startswith("Cap")]
        assert capabilities == [0] * 5
        assert each.status["NoNewPrivs"] == "1"
        assert each.status["Seccomp"] == "2"
        assert each.environment == [b"PATH=/usr/bin:/bin", b""]


def test_emulators_are_in_namespaces_of_their_own(pair):
    first, second = pair[0]
    for name in NAMESPACES:
        assert len({os.readlink(f"/proc/1/ns/{name}"), first.namespaces[name], second.namespaces[name]}) == 3
    for each in (first, second):
        assert each.numbers("NSpid")[-1] == 1
        assert each.network == ["lo"]


def test_emulators_see_programs_and_nothing_else(pair):
    for each in pair[0]:
        assert set(each.root) <= {"usr", "lib", "lib32", "lib64", "libx32", "bin", "sbin", "etc", "dev", "proc", "nix"}
        assert each.devices == ["kvm", "null", "urandom"]
        for place, kind, options in each.mounts:
            assert kind == "proc" or place.startswith("/dev/") or "ro" in options.split(","), place


def test_emulators_are_in_limited_control_groups(pair):
    first, second = pair[0]
    assert len({"/system.slice/nixbuildd.service", "/", first.group, second.group}) == 4
    for each in (first, second):
        # The machine's 512 MiB and what an emulator takes beside.
        assert each.group.startswith("/system.slice/nixbuildd.service/")
        assert 512 << 20 < int(each.limits["memory.max"]) < 1024 << 20
        assert int(each.limits["pids.max"]) < 1000


def test_daemon_is_killed_and_the_next_one_takes_the_machine_over(pair, server, small):
    wait_until(lambda: not runners(server))
    with asking_for(server, small, "adopted", BODY) as first:
        first.wait_for("step-3")
        machines = runners(server)
        (emulator,) = emulators(server)
        daemon = server.daemon_pid()
        os.kill(daemon, signal.SIGKILL)
        first.end()
        assert first.process.returncode != 0
    time.sleep(1)
    assert runners(server) == machines
    with asking_for(server, small, "adopted", BODY) as again:
        again.wait_for("step-0")
        assert server.daemon_pid() not in (None, daemon)
        assert list(emulators(server)) == [emulator]
        path = again.end()
        assert again.process.returncode == 0, said_to(again)
        assert again.steps() == [f"step-{i}" for i in range(STEPS)]
    assert client_of(server).real(path).read_text().strip() == kernel_version("cloud")
    assert record_of(server, "adopted")["accelerator"] == "kvm"
    wait_until(lambda: not runners(server))
