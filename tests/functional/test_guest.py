"""What a builder sees: exactly its closure, and nothing of the host or of another build."""

import os
import re

import pytest

import peers
from conftest import SERVER

SLOTS = 2

INVENTORY = r"""
section() { echo "== $1"; }
{
section root;      ls -A /
section store;     ls -A /nix/store | sort
section nix;       ls -A /nix
section dev;       ls -A /dev | sort
section devlinks;  for l in fd stdin stdout stderr ptmx; do echo "$l $(readlink /dev/$l)"; done
section devkinds;  for d in full null random tty urandom zero; do [ -c /dev/$d ] && echo "$d char"; done
section blocks;    find / -xdev -type b 2>/dev/null; find /dev -type b
section bin;       ls -A /bin; ls -A /usr 2>/dev/null
section etc;       ls -A /etc | sort
section passwd;    cat /etc/passwd
section group;     cat /etc/group
section hosts;     cat /etc/hosts
section ids;       id -u; id -g; id -G
section env;       env | sort
section hostname;  hostname
section links;     for i in /proc/sys/net/ipv4/conf/*; do basename $i; done | grep -v -e all -e default
section routes;    cat /proc/net/route | tail -n +2; cat /proc/net/if_inet6
section umask;     umask
section tty;       [ -t 1 ] && echo stdout; [ -t 2 ] && echo stderr; [ -t 0 ] || echo stdin-is-none
section pid;       echo $$
section processes; ls /proc | grep -E '^[0-9]+$' | sort -n | head -n 1
section build;     pwd; ls -A /build; stat -c '%a %u %g' /build
section tmp;       stat -c '%a' /tmp; ls -A /tmp
section modes;     stat -c '%a %u' /nix/store
section status;    grep -E '^(NoNewPrivs|CapEff|CapPrm|CapBnd|Groups):' /proc/self/status
section writable;  for p in $busybox /nix /etc /dev /; do touch $p/nixbuild-probe && echo "$p"; done
section input;     ( : > $busybox/bin/busybox ) && echo overwritten; chmod 777 $busybox 2>/dev/null && echo chmodded
section kernel;    for f in /proc/kcore /dev/mem /dev/vda /dev/vport0p1 /dev/hvc0 /dev/kmsg; do [ -r $f ] && echo $f; done
section clock;     date +%s
section net;       nc -w 2 127.0.0.1 22 </dev/null && echo loopback-22; nc -w 2 10.0.2.2 22 </dev/null && echo gateway
section aslr;      cat /proc/self/personality
section setuid;    cp $busybox/bin/busybox own; chmod 4755 own 2>/dev/null && echo setuid-allowed
section end
} 2>/dev/null | tee $out >&2; [ -t 2 ] && echo "tty stderr" >> $out; exit 0
"""


@pytest.fixture(scope="module")
def client(module_scratch, server):
    return peers.Client(module_scratch, "2.8.0", sshd=server)


def sections_of(text):
    sections, lines = {}, None
    for line in text.splitlines():
        if line.startswith("== "):
            lines = sections[line[3:]] = []
        elif lines is not None:
            lines.append(line)
    return sections


@pytest.fixture(scope="module")
def inventory(client, server, small):
    done = small.build_remotely(client, server, "inventory", slots=SLOTS, body=INVENTORY)
    path = done.stdout.strip()
    found = sections_of(client.real(path).read_text())
    assert "end" in found, done.stderr
    found["path"] = path
    drv = small.instantiate(client, "inventory", body=INVENTORY)
    found["inputs"] = [
        p for p in client.run("nix-store", "-qR", drv).stdout.split() if not p.endswith(".drv")
    ]
    print(client.real(path).read_text())
    return found


def test_file_tree(inventory):
    assert set(inventory["root"]) == {"bin", "build", "dev", "etc", "nix", "proc", "tmp"}
    assert inventory["nix"] == ["store"]
    closure = {os.path.basename(p) for p in inventory["inputs"]}
    own = os.path.basename(inventory["path"])
    assert set(inventory["store"]) - {own} == closure
    assert inventory["bin"] == ["sh"]
    assert inventory["etc"] == ["group", "hosts", "passwd"]
    assert inventory["build"][0] == "/build"
    assert inventory["build"][1] == "700 1000 100"
    assert inventory["tmp"] == ["1777"]
    assert inventory["modes"][0].startswith("1775 ")
    assert set(inventory["writable"]) <= {"/nix", "/etc", "/dev", "/"}


def test_devices(inventory):
    assert set(inventory["dev"]) - {"kvm"} == {
        "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    }  # fmt: skip
    assert inventory["devlinks"] == [
        "fd /proc/self/fd",
        "stdin /proc/self/fd/0",
        "stdout /proc/self/fd/1",
        "stderr /proc/self/fd/2",
        "ptmx /dev/pts/ptmx",
    ]
    assert inventory["devkinds"] == [f"{d} char" for d in ("full", "null", "random", "tty", "urandom", "zero")]
    assert inventory["blocks"] == []


@pytest.mark.skipif(SERVER != "nixbuild", reason="a machine has less than a namespace")
def test_nothing_of_the_machine(inventory):
    assert inventory["kernel"] == []


def test_identity(inventory):
    assert inventory["ids"] == ["1000", "100", "100"]
    assert inventory["passwd"] == [
        "root:x:0:0:Nix build user:/build:/noshell",
        "nixbld:x:1000:100:Nix build user:/build:/noshell",
        "nobody:x:65534:65534:Nobody:/:/noshell",
    ]
    assert inventory["group"] == ["root:x:0:", "nixbld:!:100:", "nogroup:x:65534:"]
    assert inventory["hosts"] == ["127.0.0.1 localhost", "::1 localhost"]
    assert inventory["hostname"] == ["localhost"]
    assert inventory["umask"] == ["0022"]
    assert inventory["pid"] == ["1"]
    assert inventory["processes"] == ["1"]
    assert inventory["aslr"] == ["00040000"]
    assert [line for line in inventory["status"] if line.startswith(("CapEff", "CapPrm"))] == [
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
    ]
    assert "NoNewPrivs:\t1" in inventory["status"]
    assert inventory["setuid"] == []


def test_environment(inventory):
    told = dict(line.split("=", 1) for line in inventory["env"] if re.match(r"\w+=", line))
    fixed = {
        "PATH": "/path-not-set",
        "HOME": "/homeless-shelter",
        "NIX_STORE": "/nix/store",
        "NIX_BUILD_TOP": "/build",
        "TMPDIR": "/build",
        "TEMPDIR": "/build",
        "TMP": "/build",
        "TEMP": "/build",
        "PWD": "/build",
        "NIX_LOG_FD": "2",
        "TERM": "xterm-256color",
        "name": "small-inventory",
        "system": "x86_64-linux",
        "tag": "inventory",
        "out": inventory["path"],
    }
    for name, value in fixed.items():
        assert told.get(name) == value, name
    # SHLVL is the shell's own.
    allowed = fixed.keys() | {"NIX_BUILD_CORES", "builder", "busybox", "SHLVL"}
    assert told.keys() <= allowed


def test_network(inventory):
    assert inventory["links"] == ["lo"]
    assert [line for line in inventory["routes"] if not line.endswith(" lo")] == []
    assert inventory["net"] == []


def test_terminal(inventory):
    # The inventory's own stdout is a pipe; its stdin is /dev/null.
    assert "stdin-is-none" in inventory["tty"]


def test_inputs_cannot_be_changed(inventory):
    # Without build users, as here, a Nix builder owns its inputs; in a machine it never does.
    assert set(inventory["input"]) <= (set() if SERVER == "nixbuild" else {"chmodded"})
    busybox = next(p for p in inventory["inputs"] if p.endswith("-bb"))
    assert busybox not in inventory["writable"]


def test_clock(inventory):
    import time

    assert abs(int(inventory["clock"][0]) - time.time()) < 600


def test_terminal_and_log(client, server, small):
    """stdout and stderr are a terminal; all bytes reach the client in order, to the last unfinished line."""
    body = (
        '[ -t 1 ] && a=tty; [ -t 2 ] && b=tty; i=0; while [ $i -lt 2000 ]; do echo "line $i"; i=$((i+1)); done; '
        'echo "$a $b" > $out; printf "unfinished end"'
    )
    done = small.build_remotely(client, server, "terminal", body=body)
    assert client.real(done.stdout.strip()).read_text() == "tty tty\n"
    lines = [line for line in done.stderr.splitlines() if re.fullmatch(r"line \d+", line)]
    assert lines == [f"line {n}" for n in range(2000)]
    assert "unfinished end" in done.stderr


TOGETHER = r"""
mkdir -p /tmp/mine; echo $tag > /tmp/mine/$tag; echo $tag > /dev/shm/$tag
n=0; while [ $n -lt 8 ]; do n=$((n+1)); sleep 1; date +%s >> seen; done
{ cat seen | head -n 1; tail -n 1 seen; ls /tmp/mine /dev/shm; ls /nix/store; ps 2>/dev/null | grep -c sleep; } > $out
"""


def test_two_builds_at_once(client, server, small, module_scratch):
    """Two builds that run at the same time see neither files nor store paths of each other."""
    both = module_scratch / "both.nix"
    one = lambda tag: (
        f'(import {os.path.dirname(os.path.abspath(__file__))}/small.nix {{ tag = "{tag}"; '
        f'bb = "{small.bb}"; body = builtins.readFile {module_scratch}/together.sh; }})'
    )
    (module_scratch / "together.sh").write_text(TOGETHER)
    both.write_text(f"[ {one('first')} {one('second')} ]")
    done = client.run(
        "nix-build", both, "--no-out-link", "-j0", "--builders", server.builders(slots=2)
    )
    texts = {}
    for path in done.stdout.split():
        texts["first" if path.endswith("first") else "second"] = client.real(path).read_text()
    spans = {name: [int(n) for n in text.split()[:2]] for name, text in texts.items()}
    assert max(s[0] for s in spans.values()) <= min(s[1] for s in spans.values()), "they did not overlap"
    for name, other in (("first", "second"), ("second", "first")):
        assert other not in texts[name]
        assert texts[name].count(name) >= 3
