"""How often a client waits for an answer: never more often than with a server of Nix itself."""

import os
import shlex
import sys
import time

import pytest
from conftest import HERE
from test_scenarios import PaperServer

import peers

pytestmark = pytest.mark.skipif(
    os.environ.get("NIXBUILD_TEST_SERVER", "nixbuild") != "nixbuild", reason="compares our server with Nix's"
)


class Counting:
    """A server whose sessions are counted, mixed into those of the other tests."""

    def _server_lines(self):
        inside = self.scratch / f"{self.name}.inner.sh"
        inside.write_text(f"#!/bin/bash\n{super()._server_lines()}")
        inside.chmod(0o755)
        self.counts = self.scratch / f"{self.name}.turns"
        words = [sys.executable, peers.SUPPORT / "turns.py", self.counts, inside]
        return f"exec {shlex.join(map(str, words))}\n"

    def take_turns(self):
        """Turns of the sessions since the last time, once they have ended."""
        deadline = time.monotonic() + 20
        while not self.counts.exists() or not self.counts.read_text().endswith("\n"):
            assert time.monotonic() < deadline, "no session has ended"
            time.sleep(0.05)
        time.sleep(0.1)
        turns = sum(map(int, self.counts.read_text().split()))
        self.counts.unlink()
        return turns


class Ours(Counting, PaperServer):
    name = "ours"


class Theirs(Counting, peers.Sshd):
    name = "theirs"


@pytest.fixture(scope="module", params=peers.VERSIONS)
def servers(request, module_scratch):
    scratch = module_scratch / request.param
    scratch.mkdir()
    (scratch / "theirs").mkdir()
    with Ours(scratch) as ours, Theirs(scratch / "theirs", server=request.param) as theirs:
        yield request.param, ours, theirs


def actions(client, closure):
    """{what: command}, in the order in which they are done."""
    remote = client.remote
    tree = closure[-1]
    more = {}
    if client.scheme == "ssh":
        host = remote.removeprefix("ssh://")
        more = {
            "nix-copy-closure --to": ["nix-copy-closure", "--to", host, tree],
            "nix-copy-closure --from": ["nix-copy-closure", "--from", host, tree],
        }
    else:
        more = {
            "ls": ["nix", "store", "ls", "--store", remote, "-R", tree],
            "build what is valid": ["nix", "build", "--no-link", "--store", remote, tree],
        }
    return {
        "ping": ["nix", "store", "ping", "--store", remote],
        "copy to": ["nix", "copy", "--to", remote, tree],
        "copy to, again": ["nix", "copy", "--to", remote, tree],
        "path-info": ["nix", "path-info", "--store", remote, tree],
        "path-info -r": ["nix", "path-info", "-r", "--store", remote, tree],
        "copy from": ["nix", "copy", "--no-check-sigs", "--from", remote, tree],
        **more,
    }


def builds(client, server, scratch):
    """The same for builds; the attributes are those of scenarios.nix."""
    file = [HERE / "scenarios.nix", "--argstr", "tag", "turns", "--argstr", "bb", peers.busybox_folder(scratch)]
    hook = ["nix-build", *file, "--no-out-link", "-j0", "--builders", server.builders(8, scheme=client.scheme)]
    made = {
        "build by hook": [*hook, "-A", "sourced"],
        "several outputs by hook": [*hook, "-A", "several.all"],
        "failing build by hook": [*hook, "-A", "failing"],
        "three builds by hook": [*hook, "-A", "diamond", "--arg", "width", "2"],
    }
    if client.scheme == "ssh-ng":
        there = ["nix", "build", "--impure", "--no-link", "--store", client.remote, "--eval-store", "auto", "-f", *file]
        made["build in the store"] = [*there, "two"]
        made["build in the store, again"] = [*there, "two"]
        made["failing build in the store"] = [*there, "wrong"]
    return made


def count(client, server, scratch):
    """{action: turns}."""
    bb = peers.busybox_folder(scratch)
    made = client.run(
        "nix-build", "-E", f'with import {HERE}/turns.nix {{ bb = "{bb}"; }}; tree', "--no-out-link"
    ).stdout.strip()  # fmt: skip
    closure = client.run("nix-store", "-qR", made).stdout.split()
    turns = {}
    for what, command in {**actions(client, closure), **builds(client, server, scratch)}.items():
        done = client.run(*command, check=False)
        assert (done.returncode != 0) == what.startswith("failing"), (what, done.stderr)
        turns[what] = server.take_turns()
    return turns


@pytest.mark.parametrize("scheme", peers.SCHEMES)
def test_no_more_round_trips_than_with_nix(scheme, servers, module_scratch):
    version, ours, theirs = servers
    counts = [
        count(peers.Client(server.scratch, version, name=f"client-{scheme}", sshd=server, scheme=scheme), server, module_scratch)
        for server in (ours, theirs)
    ]
    for what in counts[0]:
        print(f"{scheme} {version} {what}: ours {counts[0][what]}, Nix {counts[1][what]}")
    worse = {what for what in counts[0] if counts[0][what] > counts[1][what]}
    assert not worse, f"more round trips than with Nix {version}: {worse}, {counts}"
