"""A failed build's machine, entered over SSH: what the builder left, as the builder had it."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

import pytest
from conftest import SERVER

import conftest
import peers

pytestmark = pytest.mark.skipif(SERVER != "nixbuild", reason="Nix keeps what nobody can enter")

BODY = (
    "$busybox/bin/busybox mkdir half; echo so far > half/done; "
    "$busybox/bin/busybox chmod 700 half; $busybox/bin/busybox touch -d '2001-02-03 04:05:06' half/done; "
    "echo part > $out; exit 9"
)


@pytest.fixture(scope="module")
def server(module_scratch):
    config = module_scratch / "nixbuild.toml"
    config.write_text("[builds]\nbuild-memory-mib = 256\nkept-minutes = 9\n")
    with conftest.Server(module_scratch, config=config) as started:
        yield started
        conftest.keep_log(started)


def failed_build(server, client, small, name, *options):
    """(what the client was told, number of the build) of a build that fails."""
    done = small.build_remotely(client, server, name, body=BODY, extra=options, check=False)
    assert done.returncode != 0
    listed = subprocess.run(
        [peers.program("nixbuild"), "--state-dir", server.state_dir, "builds", "--failed", "--json"],
        check=True, capture_output=True,
    )  # fmt: skip
    build = next(build for build in json.loads(listed.stdout) if name in build["derivation"])
    return done.stderr, build["id"]


def enter(server, build, typed, *options):
    return server.ssh("nixbuild", "shell", str(build), input=typed.encode(), options=options)


def test_the_machine_of_a_failure_is_entered(server, module_scratch, small):
    client = peers.Client(module_scratch, "2.8.0", name="keeper", sshd=server)
    said, build = failed_build(server, client, small, "kept", "--keep-failed")
    assert f"[nixbuild] the machine is kept for 9 minutes; to look around in it: ssh -t HOST nixbuild shell {build}" in said
    bb = "$busybox/bin/busybox"
    commands = (
        f"{bb} stat -c 'mode %a of %u time %Y' half half/done; {bb} cat half/done $out; echo it is $name; {bb} tty; "
        f"{bb} id -u; echo more > half/new; echo last\\ word\nexit\n"
    )
    entered = enter(server, build, commands)
    told = entered.stdout.decode().replace("\r", "")
    assert entered.returncode == 0, entered.stderr
    # The terminal echoes what is typed; what came of it stands in lines of its own.
    lines = told.split("\n")
    assert any(re.fullmatch(r"mode 700 of 1000 time \d+", line) for line in lines), told
    assert "mode 644 of 1000 time 981173106" in lines
    assert {"so far", "part", "1000", "last word"} <= set(lines)
    assert any(line.startswith("it is ") and "kept" in line for line in lines)
    assert any(line.startswith("/dev/") or line == "not a tty" for line in lines)
    # It stays, with what the visitor did; the end of the input leaves it, too.
    again = enter(server, build, f"{bb} cat half/new\n").stdout.decode()
    assert "\nmore" in again.replace("\r", "")
    # Over a terminal, as a person has it.
    assert "~ $ exit" in enter(server, build, "exit\n", "-tt").stdout.decode()
    at_a_terminal(server, build)


def at_a_terminal(server, build):
    """The caller's terminal lends its size, and is afterwards what it was."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    before = termios.tcgetattr(theirs)
    command = [peers.program("nixbuild"), "--state-dir", server.state_dir, "shell", str(build)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    try:
        shown = b""
        typed = False
        deadline = time.monotonic() + 30
        while process.poll() is None:
            assert time.monotonic() < deadline, shown
            if select.select([ours], [], [], 0.2)[0]:
                shown += os.read(ours, 65536)
            if not typed and b"$ " in shown:
                assert termios.tcgetattr(theirs) != before
                os.write(ours, b"$busybox/bin/busybox stty size\nexit\n")
                typed = True
    finally:
        process.kill()
        process.wait()
    assert b"\n33 101" in shown.replace(b"\r", b""), shown
    assert process.returncode == 0
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_who_leaves_a_busy_shell_leaves_it_free(server, module_scratch, small):
    """A flood of output does not keep Ctrl-C away, and a connection that is cut in it holds no machine."""
    client = peers.Client(module_scratch, "2.8.0", name="leaver", sshd=server)
    _, build = failed_build(server, client, small, "left", "--keep-failed")
    command = [peers.program("nixbuild-serve"), "--state-dir", server.state_dir]
    environment = {**os.environ, "SSH_ORIGINAL_COMMAND": f"nixbuild shell {build}"}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    try:
        flooded_and_left(process)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    conftest.wait_until(lambda: enter(server, build, "echo mine\nexit\n").returncode == 0, 60)


def read_until(process, reached):
    """What comes until `reached(all of it)`, within a minute."""
    shown, deadline = b"", time.monotonic() + 60
    while not reached(shown):
        assert time.monotonic() < deadline, shown[-300:]
        if select.select([process.stdout], [], [], 1)[0]:
            shown += process.stdout.read(65536)


def flooded_and_left(process):
    yes = b"$busybox/bin/busybox yes flood\n"
    process.stdin.write(yes)
    read_until(process, lambda shown: len(shown) > 1 << 16)
    process.stdin.write(b"\x03")
    process.stdin.write(b"echo still h''ere\n")
    read_until(process, lambda shown: b"still here" in shown)
    # In the middle of it the client goes.
    process.stdin.write(yes)
    read_until(process, lambda shown: len(shown) > 1 << 14)


def test_what_was_not_to_be_kept_is_gone(server, module_scratch, small):
    client = peers.Client(module_scratch, "2.8.0", name="careless", sshd=server)
    said, build = failed_build(server, client, small, "gone")
    assert "is kept" not in said
    refused = enter(server, build, "exit\n")
    assert refused.returncode != 0 and b"is not there" in refused.stderr


def test_a_setting_keeps_it_for_clients_that_cannot_ask(server, module_scratch, small):
    client = peers.Client(module_scratch, "2.26.3", name="ng", sshd=server, scheme="ssh-ng")
    settings = [peers.program("nixbuild"), "--state-dir", server.state_dir, "settings"]
    subprocess.run([*settings, "set", "keep-failed", "true"], check=True)
    said, build = failed_build(server, client, small, "asked")
    subprocess.run([*settings, "unset", "keep-failed"], check=True)
    assert f"nixbuild shell {build}" in said
    assert b"so far" in enter(server, build, "$busybox/bin/busybox cat half/done\nexit\n").stdout
