"""Fixtures: scratch folders, servers behind a real sshd, clients of each version.

NIXBUILD_TEST_SERVER=2.8.0 (or 2.26.3) puts that Nix in the place of nixbuild-serve: a test about
what a client sees has to pass there too.
"""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
import peers  # noqa: E402

# What a builder of a local Nix finds ignored is what this process was started with (nohup: SIGHUP).
for number in signal.valid_signals():
    if signal.getsignal(number) == signal.SIG_IGN and number not in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)

SERVER = os.environ.get("NIXBUILD_TEST_SERVER", "nixbuild")
HERE = Path(__file__).resolve().parent


def make_scratch():
    return Path(tempfile.mkdtemp(prefix="nixbuild-test-"))


def drop_scratch(folder):
    # Store paths are read-only folders.
    subprocess.run(["chmod", "-R", "u+w", folder], check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def scratch():
    folder = make_scratch()
    yield folder
    drop_scratch(folder)


@pytest.fixture(scope="module")
def module_scratch():
    folder = make_scratch()
    yield folder
    drop_scratch(folder)


_imported = []


def kernel_files(which="kernel"):
    """The image and the modules of a kernel that tests/support/prepare knows."""
    chosen = os.environ.get("NIXBUILD_TEST_KERNEL_DIR") if which == "kernel" else None
    kernel = Path(chosen or peers.prepare(which))
    return next((kernel / "boot").glob("vmlinuz-*")), next((kernel / "lib/modules").iterdir())


def import_kernel(state_dir):
    """Gives a state directory the kernel for machines. It is imported, and a machine tried with it, once."""
    if not _imported:
        first = make_scratch()
        atexit.register(drop_scratch, first)
        done = subprocess.run(
            [peers.program("nixbuild"), "--state-dir", first / "state", "kernel", "import", *kernel_files()],
            check=True,
            timeout=400,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert "tried: a machine with it works" in done.stdout
        _imported.append(first / "state/kernels")
    shutil.copytree(_imported[0], Path(state_dir) / "kernels")


class Server(peers.Sshd):
    """The server under test with a kernel for its machines."""

    def __init__(self, scratch, **more):
        super().__init__(scratch, server=SERVER, **more)
        if SERVER == "nixbuild":
            import_kernel(self.state_dir)


@pytest.fixture(scope="module")
def server(module_scratch):
    with Server(module_scratch) as started:
        yield started
        keep_log(started)


def keep_log(started):
    """The daemon's own words go to the captured output, which pytest prints when a test fails."""
    log = started.state_dir / "daemon.log"
    if log.exists():
        print(f"--- {log}\n" + log.read_text(errors="replace")[-20000:])


def wait_until(condition, patience=60):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def peer_of(request, scratch, server):
    version, scheme = request.param
    return peers.Client(scratch, version, name=f"client-{version}-{scheme}", sshd=server, scheme=scheme)


@pytest.fixture(
    scope="module",
    params=[(version, scheme) for version in peers.VERSIONS for scheme in peers.SCHEMES],
    ids=lambda pair: "-".join(pair),
)
def client(request, module_scratch, server):
    """Each Nix at each door."""
    return peer_of(request, module_scratch, server)


@pytest.fixture(
    scope="module",
    params=[(version, "ssh-ng") for version in peers.VERSIONS],
    ids=lambda pair: pair[0],
)
def worker_client(request, module_scratch, server):
    """Each Nix at the door that lets it use the server's store as its own."""
    return peer_of(request, module_scratch, server)


class Small:
    """Instantiates and builds tests/functional/small.nix."""

    def __init__(self, scratch):
        self.bb = peers.busybox_folder(scratch)

    def arguments(self, tag, body=None, system=None, more=None):
        words = [HERE / "small.nix", "--argstr", "tag", tag, "--argstr", "bb", self.bb]
        if body is not None:
            words += ["--argstr", "body", body]
        if system is not None:
            words += ["--argstr", "system", system]
        if more is not None:
            words += ["--argstr", "more", json.dumps(more)]
        return words

    def instantiate(self, client, tag, **more):
        return client.run("nix-instantiate", *self.arguments(tag, **more)).stdout.strip()

    def build_remotely(self, client, server, tag, slots=2, systems="x86_64-linux", extra=(), check=True, **more):
        return client.run(
            "nix-build", *self.arguments(tag, **more), "--no-out-link", "-j0",
            "--builders", server.builders(slots, systems, scheme=client.scheme), *extra, check=check,
        )  # fmt: skip


@pytest.fixture(scope="module")
def small(module_scratch):
    return Small(module_scratch)
