"""A compiler and programs from their real sources: built by a local Nix and, from an empty remote store,
through the server. Every output has the same NAR hash, size, references and deriver.

Under software emulation a configure script takes many minutes: Lua is built before every merge, the small ones
with tests/run --release, all of them with NIXBUILD_TEST_PROGRAMS=all (hours), or some by name
(NIXBUILD_TEST_PROGRAMS="hello git")."""

import os
import time

import pytest

import peers
from conftest import HERE, Server

SMALL = ["lua", "zlib", "hello"]
LARGE = ["bzip2", "gzip", "sed", "tcc", "lz4", "git"]
USUAL = SMALL if "NIXBUILD_TEST_RELEASE" in os.environ else SMALL[:1]
CHOSEN = os.environ.get("NIXBUILD_TEST_PROGRAMS", " ".join(USUAL))
PROGRAMS = ["toolchain", *(SMALL + LARGE if CHOSEN == "all" else CHOSEN.split())]
HOUR = 3600


@pytest.fixture(scope="module")
def inputs():
    return peers.prepare("inputs"), peers.prepare("sources")


def build(client, inputs, attribute, *extra, timeout=HOUR):
    started = time.monotonic()
    done = client.run(
        "nix-build", HERE / "programs", "-A", attribute, "--argstr", "inputs", inputs[0], "--argstr", "sources", inputs[1],
        "--no-out-link", *extra, timeout=timeout,
    )  # fmt: skip
    return done.stdout.strip(), time.monotonic() - started, done.stderr


@pytest.fixture(scope="module")
def native(module_scratch, inputs):
    """{program: (path, facts, seconds)} of the local builds."""
    local = peers.Client(module_scratch, "2.8.0", name="local")
    results = {}
    for name in PROGRAMS:
        path, seconds, _ = build(local, inputs, name)
        results[name] = (path, local.path_info(path)[path], seconds)
    return results


@pytest.fixture(scope="module")
def remote(module_scratch):
    with Server(module_scratch, memory_mib=2048) as server:
        client = peers.Client(module_scratch, "2.8.0", name="remote", sshd=server)
        yield client, server


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_as_local(name, native, remote, inputs):
    client, server = remote
    path, seconds, log = build(
        client, inputs, name, "-j0", "--builders", server.builders(slots=2), timeout=4 * HOUR
    )
    assert f"on '{server.uri()}'" in log, "the build did not go to the server"
    expected_path, expected, native_seconds = native[name]
    print(f"{name}: {native_seconds:.1f} s locally, {seconds:.1f} s through the server")
    assert path == expected_path
    assert client.path_info(path)[path] == expected


# What a program is asked, and its answer.
QUESTIONS = {
    "lua": (["bin/lua", "-e", "print(6 * 7)"], "42"),
    "hello": (["bin/hello", "--greeting=well done"], "well done"),
    "git": (["bin/git", "--version"], "git version"),
}


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name in QUESTIONS])
def test_programs_run_where_they_were_copied_to(name, native, remote, inputs):
    client, _ = remote
    words, answer = QUESTIONS[name]
    assert answer in run_inside(client, native[name][0], words).stdout


def run_inside(client, path, words):
    """Runs a program of a client's private store with that store at /nix/store."""
    return client.run(
        "unshare", "--mount", "--map-root-user", "sh", "-c",
        'mkdir -p "$1/run/nix" && cd "$1/run" && mount --rbind "$1/nix" nix && shift && exec chroot . "$@"',
        "sh", client.root, f"{path}/{words[0]}", *words[1:],
    )  # fmt: skip
