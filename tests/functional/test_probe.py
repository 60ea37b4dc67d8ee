"""All that a builder can see of where it runs (probe.sh), under each Nix's own sandbox and in our machine.

What differs is listed here with its reason; everything else has to be the same, entry by entry.
"""

import os
import re

import pytest
from conftest import HERE

import peers

pytestmark = pytest.mark.skipif(
    os.environ.get("NIXBUILD_TEST_SERVER", "nixbuild") != "nixbuild", reason="compares with our machine"
)

AS_ROOT = "this Nix runs as root and maps its builder to root; with build users it is as in our machine"
MOUNTS = "Nix binds single paths of its host; a machine has one store, one root"
# Entry, or entry@version: why it is another in a machine. One that is the same is an error, ...
ACCEPTED = {
    "mounts": MOUNTS,
    "mount-types": MOUNTS,
    "user-map": AS_ROOT,
    "ping-groups": AS_ROOT,
    "proc-writable": AS_ROOT,
    "write-elsewhere": AS_ROOT,
    "write-to-input": AS_ROOT,
    "root-folders": "/bin/sh has the mode that the host's busybox has; Nix 2.8 leaves /etc writable",
    "limits": "processes and signals go by the memory; open files are those of nix-daemon's unit, not of the test",
    "devices": "Nix gives /dev/kvm wherever its host has one, a machine only where it works",
    "cgroup": "the groups of the host, or the one of the machine",
}
# ... unless it depends on the host of this test.
BY_HOST = {"limits", "devices", "cgroup", "write-elsewhere", "proc-writable", "ping-groups"}


def probe(client, scratch, *options):
    """{entry: text} of a build by `client`."""
    bb = peers.busybox_folder(scratch)
    expression = f"""
      let bb = builtins.path {{ path = {bb}; name = "bb"; }};
          make = name: script: rest: derivation ({{
            inherit name; system = "x86_64-linux"; builder = "${{bb}}/bin/sh"; args = [ "-c" script ];
          }} // rest);
      in make "probe" ". $probe > $out" {{
        probe = builtins.path {{ path = {HERE}/probe.sh; name = "probe.sh"; }};
        input = make "input" "mkdir -p $out/folder; echo x > $out/leaf; echo x > $out/run; chmod +x $out/run; ln -s leaf $out/link" {{ }};
      }}"""
    done = client.run("nix-build", "-E", expression, "--no-out-link", *options)
    text = client.real(done.stdout.strip()).read_text()
    return {name: said for name, said in re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)}


@pytest.fixture(scope="module")
def ours(module_scratch, server):
    client = peers.Client(module_scratch, "2.8.0", name="probing", sshd=server)
    return probe(client, module_scratch, "-j0", "--builders", server.builders())


@pytest.mark.parametrize("version", peers.VERSIONS)
def test_every_entry_is_the_same(version, module_scratch, ours):
    theirs = probe(peers.Client(module_scratch, version, name=f"probing-{version}"), module_scratch)
    assert len(theirs) > 50
    assert list(theirs) == list(ours)
    different = {entry for entry in theirs if theirs[entry] != ours[entry]}
    accepted = {entry.partition("@")[0] for entry in ACCEPTED if entry.partition("@")[2] in ("", version)}
    said = "\n".join(
        f"{entry}\n--- Nix {version}\n{theirs[entry]}--- ours\n{ours[entry]}" for entry in sorted(different - accepted)
    )
    assert not different - accepted, f"{len(different - accepted)} of {len(theirs)} entries differ\n{said}"
    stale = accepted - different - BY_HOST
    assert not stale, f"accepted, and yet the same: {sorted(stale)}"
