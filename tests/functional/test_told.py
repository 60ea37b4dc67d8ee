"""What a client is told of a build that fails, and when it is sent away: by each Nix through each door.

The machines are on paper (tests/support/paper.py), as in test_scenarios.py.
"""

import re
import subprocess
import time

import conftest
import paper
import peers
import pytest
from conftest import SERVER
from test_scenarios import Bench, PaperServer

pytestmark = pytest.mark.skipif(SERVER != "nixbuild", reason="Nix's own server says it in other words")


@pytest.fixture(scope="module")
def paper_server(module_scratch):
    with PaperServer(module_scratch) as started:
        yield started
        conftest.keep_log(started)


@pytest.fixture(params=[(version, scheme) for version in peers.VERSIONS for scheme in peers.SCHEMES], ids="-".join)
def bench(request, module_scratch, paper_server, small):
    made = Bench(module_scratch, paper_server, small, *request.param)
    made.tag = f"told-{made.version}-{made.scheme}-{time.time_ns() % 10**9}"
    return made


def lines_told(said):
    """The numbers of the builder's lines, in the order in which they were shown."""
    return [int(number) for number in re.findall(r"paper line (\d+)", said)]


def full_log(b, said):
    """What the command that was told shows."""
    told = set(re.findall(r"full log: ssh HOST (nixbuild log /nix/store/\S+\.drv)", said))
    assert len(told) == 1, said
    done = b.server.ssh(*told.pop().split())
    assert done.returncode == 0
    return done.stdout.decode()


def test_by_hook(bench):
    """`nix build` shows no log while it builds: what is seen comes with the failure."""
    builders = bench.server.builders(8, scheme=bench.scheme)
    done = bench.client.run(
        "nix", "build", "--impure", "-f", *bench.file(), "failing", "--no-link", "--max-jobs", "0",
        "--builders", builders, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "failed with exit code 3" in done.stderr
    assert lines_told(done.stderr) == list(range(10)), done.stderr
    assert lines_told(full_log(bench, done.stderr)) == list(range(10))


def test_by_hook_with_the_log_shown(bench):
    """`nix-build` has shown every line when the failure comes, whose lines are marked as such."""
    done = bench.hook("failing", check=False)
    assert done.returncode != 0
    marked = [line for line in done.stderr.splitlines() if line.lstrip().startswith("> ")]
    assert lines_told("\n".join(marked)) in ([], list(range(10)))
    shown = "\n".join(line for line in done.stderr.splitlines() if line not in marked)
    assert lines_told(shown) == list(range(10)), done.stderr
    assert len(re.findall(r"\[nixbuild\] build \d+\n", done.stderr)) == 1
    assert lines_told(full_log(bench, done.stderr)) == list(range(10))


def test_in_the_store(bench):
    """The server's own store: only ssh-ng lets a client build there."""
    if bench.scheme == "ssh":
        pytest.skip("no Nix builds in a store over ssh://")
    done = bench.client.run(
        "nix", "build", "--impure", "-f", *bench.file(), "failing", "--no-link",
        "--store", bench.remote, "--eval-store", "auto", check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "failed with exit code 3" in done.stderr
    assert lines_told(done.stderr) == list(range(10)), done.stderr
    assert lines_told(full_log(bench, done.stderr)) == list(range(10))


def test_the_input_that_failed_tells_why(bench):
    if bench.scheme == "ssh":
        pytest.skip("no Nix builds in a store over ssh://")
    done = bench.client.run(
        "nix", "build", "--impure", "-f", *bench.file(width=2, bad=1), "diamond", "--no-link",
        "--store", bench.remote, "--eval-store", "auto", check=False,
    )  # fmt: skip
    assert done.returncode != 0
    told = done.stderr[done.stderr.index("middle-1.drv' failed with exit code 3") :]
    assert lines_told(told) == list(range(10)), done.stderr


def test_a_missing_permission_is_all_that_is_said(bench):
    """Without build:write the refusal is the error, and no talk of a lost connection follows."""
    set_permissions = [
        peers.program("nixbuild"), "--state-dir", bench.server.state_dir, "settings", "set", "default-permissions",
    ]  # fmt: skip
    subprocess.run([*set_permissions, "store:read,store:write,build:read"], check=True)
    try:
        done = bench.hook("one", check=False)
        assert done.returncode != 0
        assert "BuildDerivation needs the permission build:write" in done.stderr
        assert "unexpected end-of-file" not in done.stderr and "Broken pipe" not in done.stderr, done.stderr
    finally:
        subprocess.run([*set_permissions, "store:read,store:write,build:read,build:write,account:write"], check=True)


def build_with(b, small, features, told=None):
    """A build by hook that needs these features."""
    line = b.server.builders(8, features=",".join(told or features), scheme=b.scheme)
    words = small.arguments(b.tag, more={"requiredSystemFeatures": features})
    return b.client.run("nix-build", *words, "--no-out-link", "-j0", "--builders", line, check=False)


def test_features_that_every_machine_has(bench, small):
    done = build_with(bench, small, ["ca-derivations", "nixos-test", "big-parallel"])
    assert done.returncode == 0, done.stderr


def test_a_feature_that_is_not_offered_is_named_alone(bench, small):
    done = build_with(bench, small, ["big-parallel", "kvm"])
    assert done.returncode != 0
    assert "does not offer the system feature 'kvm'" in done.stderr, done.stderr


def test_a_draining_server_sends_clients_on(bench, small, scratch):
    """To the next machine of the list, which only an end before the greeting makes them do."""
    other = paper.Paper(scratch, cpus=2)
    conftest.import_kernel(other.state)
    program = scratch / "other"
    words = " ".join(str(word) for word in other.command("nixbuild-serve"))
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    program.chmod(0o755)
    first, rest = bench.server.builders(8, scheme=bench.scheme).split(" 8 1 ", 1)
    lines = f"{first} 8 9 {rest} ; {bench.scheme}://localhost?remote-program={program} x86_64-linux - 1 1"
    assert "new sessions go elsewhere" in bench.server.nixbuild("drain", "--refuse")
    try:
        done = bench.hook("one", builders=lines, check=False)
        assert done.returncode == 0, done.stderr
        assert "takes no new work" in done.stderr
        assert [build["status"] for build in other.ask("builds")] == ["Built"]
        assert bench.server.ssh("nixbuild", "builds").returncode == 0
    finally:
        bench.server.nixbuild("undrain")
        other.end()
    bench.tag += "-again"
    assert bench.hook("one").returncode == 0


def test_another_store_is_refused(bench):
    """?remote-store=… names a store that is not there: nothing may land in the account's own."""
    path = bench.local()
    done = bench.client.run("nix", "copy", "--to", f"{bench.remote}?remote-store=/elsewhere", path, check=False)
    assert done.returncode != 0
    assert "another store cannot be chosen here" in done.stderr
    assert bench.client.run("nix", "path-info", "--store", bench.remote, path, check=False).returncode != 0


def test_what_is_no_builder_s_is_refused_in_one_line(paper_server):
    for words in ("nix-env -p /nix/var/nix/profiles/system --set /nix/store/x", "readlink -f /x", "nix-store -q --references /x"):
        done = paper_server.ssh(*words.split())
        assert done.returncode == 2 and not done.stdout
        said = done.stderr.decode()
        assert said.startswith(f"error: '{words}' cannot be run here") and said.count("\n") == 1, said
        assert "authorized_keys" not in said
