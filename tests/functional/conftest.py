"""Fixtures: scratch folders, servers behind a real sshd, clients of each version.

NIXBUILD_TEST_SERVER=2.8.0 (or 2.26.3) puts that Nix in the place of nixbuild-serve: a test about
what a client sees has to pass there too.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zlib
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


def count_machines(folder):
    """Notes for tests/run how many machines the daemons of a scratch folder have started."""
    file = os.environ.get("NIXBUILD_TEST_MACHINES")
    places = ("", "*/", "*/*/")
    for database in [found for place in places for found in folder.glob(f"{place}metadata.sqlite")] if file else ():
        if any((above / "paper").exists() for above in (database.parent, database.parent.parent)):
            continue
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as records:
            (started,) = records.execute("select coalesce(sum(attempt), 0) from Builds").fetchone()
        with open(file, "a") as notes:
            notes.write(f"{started}\n")


def drop_scratch(folder):
    count_machines(folder)
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


def kernel_files(which="kernel"):
    """The image and the modules of a kernel that tests/support/prepare knows."""
    chosen = os.environ.get("NIXBUILD_TEST_KERNEL_DIR") if which == "kernel" else None
    kernel = Path(chosen or peers.prepare(which))
    return next((kernel / "boot").glob("vmlinuz-*")), next((kernel / "lib/modules").iterdir())


def tried_kernel():
    """The kernel cache of a state directory for which it was imported, and a machine tried with it: once for the
    programs that were built, whichever file of tests comes first."""
    folder, programs = peers.BUILD / "kernel-for-tests", ("nixbuild", "nixbuild-runner", "nixbuild-guest")
    image, modules = kernel_files()
    made_with = "\n".join([str(image), *(str(peers.program(name).stat().st_mtime_ns) for name in programs)])
    with open(peers.BUILD / "kernel-for-tests.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mark = folder / "made-with"
        if not mark.exists() or mark.read_text() != made_with:
            shutil.rmtree(folder, ignore_errors=True)
            words = ["--state-dir", folder / "state", "kernel", "import", image, modules]
            done = subprocess.run(
                [peers.program("nixbuild"), *words], check=True, timeout=400, stdout=subprocess.PIPE, text=True
            )
            assert "tried: a machine with it works" in done.stdout
            mark.write_text(made_with)
    return folder / "state/kernels"


def import_kernel(state_dir):
    """Gives a state directory the kernel for machines."""
    shutil.copytree(tried_kernel(), Path(state_dir) / "kernels")


def with_lean_machines(scratch, config, memory_mib):
    """A configuration whose machines have no more memory than a small builder needs: a kernel under emulation
    looks at all of it. One that says itself how much stays as it is."""
    text = Path(config).read_text() if config else ""
    if "build-memory-mib" in text:
        return config
    line = f"build-memory-mib = {memory_mib}\n"
    text = text.replace("[builds]\n", "[builds]\n" + line) if "[builds]\n" in text else f"[builds]\n{line}{text}"
    made = Path(scratch) / "lean.toml"
    made.write_text(text)
    return made


class Server(peers.Sshd):
    """The server under test with a kernel for its machines."""

    def __init__(self, scratch, config=None, memory_mib=512, **more):
        if SERVER == "nixbuild":
            config = with_lean_machines(scratch, config, memory_mib)
        super().__init__(scratch, server=SERVER, config=config, **more)
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


def pytest_configure(config):
    config.addinivalue_line("markers", "doors(*schemes): what only these doors can do")


# Each Nix at each door.
PAIRS = [(version, scheme) for version in peers.VERSIONS for scheme in peers.SCHEMES]


def pairs_of(test, schemes):
    """The pairs that a test is run with: each client and each door meet it once, which client which door
    differs from test to test; tests/run --release has all of them."""
    possible = [pair for pair in PAIRS if pair[1] in schemes]
    if "NIXBUILD_TEST_RELEASE" in os.environ or len(schemes) == 1:
        return possible
    other = zlib.crc32(test.encode()) % 2
    return [(version, peers.SCHEMES[(number + other) % 2]) for number, version in enumerate(peers.VERSIONS)]


def pytest_collection_modifyitems(config, items):
    kept, left_out = [], []
    for item in items:
        given = getattr(item, "callspec", None)
        pair = given and next((given.params[name] for name in ("client", "bench") if name in given.params), None)
        doors = item.get_closest_marker("doors")
        name = item.nodeid.replace("-".join(pair), "") if pair in PAIRS else ""
        wanted = pair not in PAIRS or pair in pairs_of(name, doors.args if doors else peers.SCHEMES)
        (kept if wanted else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def peer_of(request, scratch, server):
    version, scheme = request.param
    return peers.Client(scratch, version, name=f"client-{version}-{scheme}", sshd=server, scheme=scheme)


@pytest.fixture(
    scope="module",
    params=PAIRS,
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
