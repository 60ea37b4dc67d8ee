"""A pytest plugin: what the cases of the KVM lab share. They are root in a machine made for them, and may change it."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "functional"))
import conftest  # noqa: E402
from conftest import module_scratch, scratch, small  # noqa: E402, F401

import peers  # noqa: E402
from test_survive import Asking, runners  # noqa: E402

KERNELS = Path("/lab/kernels")
NIX = Path("/lab/nix-version").read_text().strip()
DEVICE = Path("/dev/kvm")
GROUPS = Path("/sys/fs/cgroup")
LOST = "machine was lost"
# Two machines at once on two emulated processors and 3 GiB.
CONFIG = "[builds]\ncpus = 2\nmemory-mib = 1536\nbuild-cpus = 1\nbuild-memory-mib = 512\n"


def kernel_version(kind):
    """The version of Debian's `stock` or `cloud` kernel."""
    (image,) = (KERNELS / kind / "boot").glob("vmlinuz-*")
    return image.name.removeprefix("vmlinuz-")


@contextlib.contextmanager
def kernel_in_boot(kind):
    """A Debian kernel where its package puts it; its modules are in /lib/modules already, or go there."""
    version = kernel_version(kind)
    image = Path("/boot") / f"vmlinuz-{version}"
    modules = Path("/lib/modules") / version
    made = [image] if modules.exists() else [image, modules]
    image.symlink_to(KERNELS / kind / "boot" / image.name)
    if modules in made:
        modules.symlink_to(KERNELS / kind / "lib/modules" / version)
    try:
        yield version
    finally:
        for link in made:
            link.unlink()


def as_udev_has_it():
    shutil.chown(DEVICE, "root", "kvm")
    DEVICE.chmod(0o660)


@contextlib.contextmanager
def device_for_root_only():
    shutil.chown(DEVICE, "root", "root")
    DEVICE.chmod(0o600)
    try:
        yield
    finally:
        as_udev_has_it()


@contextlib.contextmanager
def module_absent():
    subprocess.run(["rmmod", "kvm_amd"], check=True)
    try:
        assert not DEVICE.exists()
        yield
    finally:
        subprocess.run(["modprobe", "kvm_amd"], check=True)
        as_udev_has_it()


def server_to_be(scratch, config="", imported=False):
    """A server that has not started, with the cloud kernel imported or none: enough for doctor."""
    file = scratch / "nixbuild.toml"
    file.write_text(CONFIG + config)
    return (conftest.Server if imported else peers.Sshd)(scratch, config=file)


@contextlib.contextmanager
def lab_server(scratch, config="", imported=True, service=False):
    """A server behind a real sshd; its daemon is a service, or started by the first client."""
    server = server_to_be(scratch, config, imported)
    daemon = start_service(server) if service else None
    try:
        with server:
            yield server
    finally:
        conftest.keep_log(server)
        if daemon:
            daemon.terminate()
            daemon.wait(60)


def start_service(server):
    """The daemon where systemd would have it: in a control group that is delegated to it."""
    place = GROUPS / "system.slice/nixbuildd.service"
    place.mkdir(parents=True, exist_ok=True)
    for group in (GROUPS, place.parent):
        (group / "cgroup.subtree_control").write_text("+cpu +memory +pids")
    ready, ready_there = os.pipe()
    command = [peers.program("nixbuildd"), "--state-dir", server.state_dir, "--config", server.config]
    with open(server.state_dir / "daemon.log", "wb") as log:
        daemon = subprocess.Popen(
            ["sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', place, *command, "--ready-fd", str(ready_there)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[ready_there],
            env={**os.environ, peers.TAG_VARIABLE: server.tag},
        )  # fmt: skip
    os.close(ready_there)
    with os.fdopen(ready, "rb") as told:
        assert told.read(1) == b"\n"
    return daemon


def client_of(server, name="client"):
    return peers.Client(server.scratch, NIX, name=name, sshd=server)


def nixbuild(server, *words):
    command = [peers.program("nixbuild"), "--state-dir", server.state_dir, "--config", server.config, *words]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)


def doctor(server):
    """{check: (level, words and advice)}"""
    found = json.loads(nixbuild(server, "doctor", "--json").stdout)
    return {each["check"]: (each["level"], f"{each['says']} {each['advice']}") for each in found}


def record_of(server, tag):
    """What the server knows of the one build of `tag`."""
    (record,) = [each for each in json.loads(nixbuild(server, "builds", "--json").stdout) if tag in each["derivation"]]
    return record


def emulators(server):
    """{process: its accelerator} of the machines that run now."""
    found = {}
    for pid in peers.children_of(runners(server)):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except OSError:
            continue
        if words[0].endswith("qemu-system-x86_64") and "-accel" in words:
            found[pid] = words[words.index("-accel") + 1].partition(",")[0]
    return found


def watch(server, asking, seconds, enough):
    """Looks on until something is `enough`, the client ended or time is up; all accelerators that were seen."""
    seen = {}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen.update(emulators(server))
        if asking.process.poll() is not None or enough(seen, asking.lines):
            break
        time.sleep(0.2)
    return list(seen.values())


def told_of_loss(_, lines):
    return any(LOST in line for line in lines)


def said_to(asking):
    return "the client was told:\n" + "\n".join(asking.lines)


@contextlib.contextmanager
def asking_for(server, small, tag, body):
    """A client that builds; it is cut off in the end if it still does."""
    asking = Asking(client_of(server), server, small, tag, body=body)
    try:
        yield asking
    finally:
        if asking.process.poll() is None:
            asking.cut()


@pytest.fixture(scope="module")
def server(module_scratch):  # noqa: F811
    with lab_server(module_scratch, "[settings]\nkeep-builds-running = 300\n", service=True) as started:
        yield started
