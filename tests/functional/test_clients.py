"""Real Nix clients over a real sshd: what is typed at both doors, and every way a build ends."""

import json
import os

import pytest

from conftest import SERVER


def unique(client, name):
    return f"{name}-{client.version.replace('.', '-')}-{client.scheme}"


@pytest.fixture(scope="module")
def built(client, server, small):
    """One path that was built locally and one that refers to it, for copying to and fro."""
    words = small.arguments(unique(client, "local"), body='mkdir $out; echo "$busybox $out" > $out/refs')
    return client.run("nix-build", *words, "--no-out-link").stdout.strip()


def test_ping(client, server):
    word = "ping" if client.version == "2.8.0" else "info"
    done = client.run("nix", "store", word, "--store", client.remote)
    assert "Store URL: ssh" in done.stdout + done.stderr


def test_copy_to_and_path_info(client, server, built):
    client.run("nix", "copy", "--to", client.remote, built)
    info = client.run("nix", "path-info", "--store", client.remote, "--json", built)
    told = json.loads(info.stdout)
    told = told[0] if isinstance(told, list) else told[built]
    local = json.loads(client.run("nix", "path-info", "--json", built).stdout)
    local = local[0] if isinstance(local, list) else local[built]
    assert told["narHash"] == local["narHash"]
    assert told["narSize"] == local["narSize"]
    assert sorted(told["references"]) == sorted(local["references"])
    closure = lambda *store: client.run("nix", "path-info", "-S", *store, built).stdout.split()
    assert closure("--store", client.remote) == closure()
    everything = lambda *store: sorted(client.run("nix", "path-info", "-r", *store, built).stdout.split())
    assert everything("--store", client.remote) == everything()


def test_copy_from(client, server, built, module_scratch):
    client.run("nix", "copy", "--to", client.remote, built)
    before = client.path_info(built)[built]
    other = type(client)(module_scratch, client.version, name=unique(client, "copied"), sshd=server, scheme=client.scheme)
    other.run("nix", "copy", "--from", client.remote, "--no-check-sigs", built)
    after = other.path_info(built)[built]
    assert after[:3] == before[:3]
    assert other.real(built + "/refs").read_text() == client.real(built + "/refs").read_text()
    other.run("nix-store", "--verify", "--check-contents")


@pytest.mark.doors("ssh")  # nix-copy-closure has no other one
def test_copy_closure_both_ways(client, server, small, module_scratch):
    words = small.arguments(unique(client, "closure"), body="mkdir $out; ln -s $busybox $out/link")
    path = client.run("nix-build", *words, "--no-out-link").stdout.strip()
    host = server.uri().removeprefix("ssh://")
    client.run("nix-copy-closure", "--to", host, path)
    other = type(client)(module_scratch, client.version, name=unique(client, "closure"), sshd=server)
    other.run("nix-copy-closure", "--from", host, path)
    assert os.readlink(other.real(path + "/link")).endswith("-bb")
    assert other.path_info(path)[path][:3] == client.path_info(path)[path][:3]


def test_unknown_path(client, server):
    missing = "/nix/store/00000000000000000000000000000000-nothing"
    done = client.run("nix", "path-info", "--store", client.remote, missing, check=False)
    assert done.returncode != 0
    assert "is not valid" in done.stderr


def test_build(client, server, small, module_scratch):
    body = 'mkdir -p $out/d; echo "$out $busybox" > $out/d/refs; chmod 755 $out/d/refs; ln -s d $out/link'
    tag = unique(client, "build")
    done = small.build_remotely(client, server, tag, body=body)
    path = done.stdout.strip()
    assert f"log-line-for-{tag}" in done.stderr
    twin = type(client)(module_scratch, client.version, name=unique(client, "twin"))
    native = twin.run("nix-build", *small.arguments(tag, body=body), "--no-out-link").stdout.strip()
    assert native == path
    assert client.path_info(path) == twin.path_info(path)


def test_two_outputs(client, server, small):
    more = {"outputs": ["out", "lib"]}
    body = 'echo one > $out; mkdir $lib; echo "$out" > $lib/ref'
    done = small.build_remotely(client, server, unique(client, "outputs"), body=body, more=more)
    drv = small.instantiate(client, unique(client, "outputs"), body=body, more=more)
    outputs = client.run("nix-store", "-q", "--outputs", drv).stdout.split()
    assert len(outputs) == 2 and done.stdout.strip() in outputs
    lib = next(o for o in outputs if o.endswith("-lib"))
    assert client.path_info(lib)[lib][2] == [o for o in outputs if o != lib]


def failure(client, server, small, name, **more):
    done = small.build_remotely(client, server, unique(client, name), check=False, **more)
    assert done.returncode != 0, done.stderr
    return done


def test_failing_builder(client, server, small):
    done = failure(client, server, small, "failing", body="echo last-words >&2; exit 3")
    assert "last-words" in done.stderr
    assert "failed with exit code 3" in done.stderr


def test_no_output(client, server, small):
    done = failure(client, server, small, "silentless", body="true")
    assert "failed to produce output" in done.stderr


def test_hash_mismatch(client, server, small):
    wrong = "0" * 52
    more = {"outputHash": f"sha256:{wrong}", "outputHashMode": "flat"}
    done = failure(client, server, small, "mismatch", more=more)
    assert "hash mismatch in fixed-output derivation" in done.stderr
    assert done.returncode in (1, 102)


def test_right_fixed_output(client, server, small):
    import hashlib

    content = f"fixed for {client.version}\n"
    more = {
        "outputHash": hashlib.sha256(content.encode()).hexdigest(),
        "outputHashAlgo": "sha256",
        "outputHashMode": "flat",
    }
    body = f"echo 'fixed for {client.version}' > $out"
    done = small.build_remotely(client, server, unique(client, "fixed"), body=body, more=more)
    assert client.real(done.stdout.strip()).read_text() == content


def test_unknown_platform(client, server, small):
    done = failure(
        client, server, small, "platform", system="riscv64-linux", systems="x86_64-linux,riscv64-linux"
    )
    assert "riscv64-linux" in done.stderr
    assert "required to build" in done.stderr or "platform mismatch" in done.stderr


@pytest.mark.doors("ssh")  # clients do not send their options over ssh-ng
@pytest.mark.parametrize(
    "option,body",
    [("timeout", "while true; do echo alive >&2; sleep 1; done"), ("max-silent-time", "sleep 600")],
    ids=["timeout", "silence"],
)
def test_time_limits(client, server, small, option, body):
    done = failure(client, server, small, option, body=body, extra=("--option", option, "4"))
    assert "timed out after 4 seconds" in done.stderr
    assert ("of silence" in done.stderr) == (option == "max-silent-time")


def test_rubbish_and_foreign_commands(server):
    """Bytes that are no greeting and commands that are no door end that one session with an error."""
    done = server.ssh("nix-store --serve --write", input=b"GET / HTTP/1.0\r\n\r\n" + bytes(64))
    assert done.returncode != 0
    if SERVER == "nixbuild":
        refused = server.ssh("cat /etc/passwd", input=b"")
        assert refused.returncode != 0
        assert b"root:" not in refused.stdout
