"""Builders that want more than there is: each ends in its own way within its time, the next build starts
clean, and the daemon does not grow."""

import json
import subprocess
import time

import conftest
import peers
import pytest

pytestmark = pytest.mark.skipif(conftest.SERVER != "nixbuild", reason="about our machines")

# What a builder does, options of the client, the status it is told, and words of the message.
GREEDY = {
    "disk": (
        "$busybox/bin/busybox dd if=/dev/zero of=big bs=1M",
        [], "TransientFailure", "MiB (setting disk)",
    ),
    "files": (
        "i=0; names=$($busybox/bin/busybox seq 200); "
        "while $busybox/bin/busybox mkdir d$i && cd d$i; do for n in $names; do : > $n || exit 1; done; "
        "cd ..; i=$((i+1)); done; exit 1",
        [], "TransientFailure", "lack of free disk space",
    ),
    "memory": (
        """$busybox/bin/busybox awk 'BEGIN { piece = sprintf("%20000000s", 1); for (;;) kept[n++] = piece n }'""",
        [], None, "ran out of memory",
    ),
    "shared": ("$busybox/bin/busybox dd if=/dev/zero of=/dev/shm/big bs=1M", [], None, "ran out of memory"),
    "processes": ("f() { f | f & }; f; while :; do :; done", ["--timeout", "15"], "TimedOut", "timed out after 15"),
    "log": (f"$busybox/bin/busybox yes {'flood ' * 80}", [], "LogLimitExceeded", "bytes of log output"),
    "silence": ("$busybox/bin/busybox sleep 100000", ["--max-silent-time", "3"], "TimedOut", "3 seconds of silence"),
    "time": ("while :; do echo on; $busybox/bin/busybox sleep 1; done", ["--timeout", "5"], "TimedOut", "timed out after 5"),
}  # fmt: skip
DEADLINE = 150  # seconds, machine included, under software emulation


@pytest.fixture(scope="module")
def server(module_scratch):
    config = module_scratch / "nixbuild.toml"
    config.write_text(
        "[builds]\nbuild-memory-mib = 384\nmax-build-memory-mib = 384\nmax-log-mib = 4\n[settings]\ndisk = 300\n"
    )
    with conftest.Server(module_scratch, config=config) as started:
        yield started
        conftest.keep_log(started)


@pytest.fixture(scope="module")
def client(module_scratch, server, small):
    made = peers.Client(module_scratch, "2.8.0", name="client", sshd=server)
    small.build_remotely(made, server, "first")
    return made


def builds(server):
    told = subprocess.run(
        [peers.program("nixbuild"), "--state-dir", server.state_dir, "builds", "--json"],
        check=True, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip
    return json.loads(told)


@pytest.mark.parametrize("what", GREEDY)
def test_greedy_builder(what, server, client, small):
    body, options, status, words = GREEDY[what]
    before = peers.resident_peak_mib(server.daemon_pid())
    started = time.monotonic()
    done = small.build_remotely(client, server, what, body=body, extra=options, check=False)
    assert time.monotonic() - started < DEADLINE
    assert done.returncode != 0
    assert words in done.stderr
    record = next(build for build in builds(server) if f"small-{what}" in build["derivation"])
    if status:
        assert record["status"] == status, record
    assert words in record["error"], record
    small.build_remotely(client, server, f"after-{what}")
    assert peers.resident_peak_mib(server.daemon_pid()) < before + 32


def test_memory_grows_until_it_is_enough(scratch, small):
    """A builder that needs more than its machine's 256 MiB gets a machine of 512; its client sees a success."""
    config = scratch / "nixbuild.toml"
    config.write_text("[builds]\nbuild-memory-mib = 256\nmax-build-memory-mib = 1024\n")
    with conftest.Server(scratch, config=config) as server:
        client = peers.Client(scratch, "2.8.0", name="client", sshd=server)
        body = (
            """$busybox/bin/busybox awk 'BEGIN { piece = sprintf("%20000000s", 1); while (n < 10) kept[n++] = piece n }' """
            "&& echo enough > $out"
        )
        done = small.build_remotely(client, server, "growing", body=body)
        assert client.real(done.stdout.strip()).read_text() == "enough\n"
        assert "[nixbuild] building with" in done.stderr and "512 MiB of memory" in done.stderr
        (build,) = builds(server)
        assert build["status"] == "Built" and build["memoryBytes"] == 512 << 20
        why = subprocess.run(
            [peers.program("nixbuild"), "--state-dir", server.state_dir, "why", str(build["id"])],
            check=True, stdout=subprocess.PIPE, text=True,
        ).stdout  # fmt: skip
        assert "512 MiB" in why and "out of memory" in why, why
