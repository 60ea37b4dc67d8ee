"""All that a builder can see of where it runs (probe.sh, probe.c), under each Nix's own sandbox and in our machine.

What differs is listed here with its reason; everything else has to be the same, entry by entry.
"""

import os
import re
import subprocess

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
    "memory": "as the host has been told; a machine refuses what it has not got, see below",
    "memory-settings": "the host's own; a machine has the kernel's",
    "kernel": "modules that the host's kernel has and may load; for those of a machine see below",
    "landlock": "the host's list of security modules, or the machine's",
    "cpus": "those of the host; a machine has at least two under KVM where its host has two",
    "performance-events": "the host's own; a machine has the kernel's",
    "trees": "the host's own file systems, some with inode numbers beyond 32 bits",
    "scratch": "the host's own file system; a machine's is ext4",
}
# ... unless it depends on the host of this test.
BY_HOST = {
    "limits", "devices", "cgroup", "write-elsewhere", "proc-writable", "ping-groups", "memory", "memory-settings",
    "kernel", "landlock", "cpus", "performance-events", "trees", "scratch",
}  # fmt: skip
# What it has to be in a machine, wherever that runs.
OURS = {
    "trees": "".join(
        f"all {count} on one file system: yes; device numbers: 1; inode numbers beyond 32 bits: 0, other in folders: 0\n"
        for count in (5, 7)
    ),
    "disk-usage": "one\none\n5\n7\n",
    "access-times": "kept\n",
    "scratch": "O_DIRECT: yes\nFIEMAP: yes\nO_TMPFILE: yes\nfallocate: yes\n",
    "memory": "4 TiB of memory: ENOMEM\n",
    "memory-settings": "0\n",
    "performance-events": "2\n",
    "input-stream": "standard input: read and write\n",
    "kernel": "".join(
        f"{door}: yes\n"
        for door in (
            "AF_ALG sha256", "AF_ALG hmac(sha512)", "AF_ALG cbc(aes)", "AF_ALG gcm(aes)", "AF_ALG stdrng",
            "Unix sockets listed", "TCP sockets listed", "vsock", "SCTP", "TLS",
        )
    ),
}  # fmt: skip


def probe_program(scratch):
    folder = scratch / "program"
    if not folder.exists():
        folder.mkdir()
        subprocess.run(["gcc", "-O1", "-static", "-o", folder / "probe", HERE / "probe.c"], check=True)
    return folder


def probe(client, scratch, *options):
    """{entry: text} of a build by `client`."""
    bb = peers.busybox_folder(scratch)
    expression = f"""
      let bb = builtins.path {{ path = {bb}; name = "bb"; }};
          make = name: script: rest: derivation ({{
            inherit name; system = "x86_64-linux"; builder = "${{bb}}/bin/sh"; args = [ "-c" script ];
          }} // rest);
      in make "probe" ". $probe > $out" {{
        outputs = [ "out" "tree" ];
        probe = builtins.path {{ path = {HERE}/probe.sh; name = "probe.sh"; }};
        program = "${{builtins.path {{ path = {probe_program(scratch)}; name = "program"; }}}}/probe";
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


@pytest.mark.parametrize("entry", OURS)
def test_what_a_machine_has(entry, ours):
    assert ours[entry].startswith(OURS[entry])
