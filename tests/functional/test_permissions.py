"""What each permission lets a real client do: without it, it is refused by its name, and the rest goes on."""

import subprocess
import time

import pytest
from conftest import SERVER
from test_scenarios import Bench, PaperServer

import conftest
import peers

pytestmark = pytest.mark.skipif(SERVER != "nixbuild", reason="Nix's own server knows no permissions")

EVERY = {"store:read", "store:write", "build:read", "build:write", "account:write"}


@pytest.fixture(scope="module")
def server(module_scratch):
    with PaperServer(module_scratch) as started:
        yield started
        conftest.keep_log(started)


@pytest.fixture(params=[(version, scheme) for version in peers.VERSIONS for scheme in peers.SCHEMES], ids="-".join)
def bench(request, module_scratch, server, small):
    made = Bench(module_scratch, server, small, *request.param)
    made.tag = f"permissions-{made.version}-{made.scheme}-{time.time_ns() % 10**9}"
    return made


class Actions:
    """Each answers (exit status, what was said); its needs stand beside it."""

    def __init__(self, bench):
        self.bench = bench
        self.count = 0
        self.tag = bench.tag
        self.there = bench.local("two")
        bench.copy_to(self.there)

    def fresh(self):
        self.count += 1
        self.bench.tag = f"{self.tag}-{self.count}"

    def done(self, process):
        return process.returncode, process.stderr if isinstance(process.stderr, str) else process.stderr.decode()

    def copy_to(self):
        self.fresh()
        b = self.bench
        return self.done(b.client.run("nix", "copy", "--to", b.remote, b.local(), check=False))

    def copy_from(self):
        b = self.bench
        return self.done(b.copy_from(self.there, client=b.another(), check=False))

    def build(self):
        self.fresh()
        return self.done(self.bench.hook("sourced", check=False))

    def list_builds(self):
        return self.done(self.bench.server.ssh("nixbuild", "builds", "--json"))

    def change_the_account(self):
        b = self.bench
        if b.scheme == "ssh":  # has no operation that changes the account
            return self.done(b.server.ssh("nixbuild", "settings", "set", "max-cpu", "4"))
        # Nothing is dead for so little: all stays.
        return self.done(b.client.run("nix", "store", "gc", "--store", b.remote, "--max", "0", check=False))

    def all(self):
        return {
            self.copy_to: {"store:read", "store:write"},
            self.copy_from: {"store:read"},
            self.build: {"store:read", "store:write", "build:write"},
            self.list_builds: {"build:read"},
            self.change_the_account: {"account:write"},
        }


def set_permissions(server, permissions):
    subprocess.run(
        [peers.program("nixbuild"), "--state-dir", server.state_dir,
         "settings", "set", "default-permissions", ",".join(sorted(permissions))],
        check=True,
    )  # fmt: skip


def test_each_permission(bench, server):
    set_permissions(server, EVERY)
    actions = Actions(bench)
    for action, needs in actions.all().items():
        status, said = action()
        assert status == 0, (action.__name__, said)
    for missing in sorted(EVERY):
        set_permissions(server, EVERY - {missing})
        for action, needs in actions.all().items():
            status, said = action()
            if missing in needs:
                assert status != 0 and missing in said, (action.__name__, missing, said)
            else:
                assert status == 0, (action.__name__, missing, said)
    for only in sorted(EVERY) if bench.scheme == "ssh-ng" and not bench.old else ():
        set_permissions(server, {only})
        for action, needs in actions.all().items():
            status, said = action()
            assert (status == 0) == (needs == {only}), (action.__name__, only, said)
