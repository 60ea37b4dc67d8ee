"""The network of fixed-output builds: what it reaches and what it does not.

The daemon runs in a network namespace of its own, with a small internet beside it
(tests/support/small_internet.py).
"""

import base64
import hashlib
import os
import subprocess

import pytest
import small_internet
from conftest import HERE, Server, drop_scratch, keep_log, make_scratch
from small_internet import DAEMON, NAME, PAGE, PRIVATE, PUBLIC

import peers

pytestmark = pytest.mark.skipif(
    os.environ.get("NIXBUILD_TEST_SERVER", "nixbuild") != "nixbuild" or not small_internet.possible(),
    reason="needs our server, and root to make network namespaces",
)

def sri(contents):
    return "sha256-" + base64.b64encode(hashlib.sha256(contents).digest()).decode()


class Place:
    """A server whose daemon runs in the small internet, and a client of it."""

    def __init__(self, scratch, internet, config="", version="2.8.0"):
        scratch.mkdir(exist_ok=True)
        (scratch / "config.toml").write_text(config)
        self.server = Server(scratch, config=scratch / "config.toml")
        self.busybox = peers.busybox_folder(scratch)
        self.curl = peers.loose_program(scratch, "curl")
        self.client = peers.Client(scratch, version, sshd=self.server)
        ready, ready_there = os.pipe()
        command = [
            peers.program("nixbuildd"), "--state-dir", self.server.state_dir,
            "--config", scratch / "config.toml", "--ready-fd", ready_there,
        ]  # fmt: skip
        with open(self.server.state_dir / "daemon.log", "wb") as log:
            self.daemon = subprocess.Popen(
                internet.wrap([str(word) for word in command]), stdin=subprocess.DEVNULL, stderr=log, pass_fds=[ready_there]
            )  # fmt: skip
        os.close(ready_there)
        with os.fdopen(ready, "rb") as told:
            assert told.read(1) == b"\n"
        self.server.start()

    def close(self):
        keep_log(self.server)
        self.server.stop()
        self.daemon.terminate()
        self.daemon.wait(timeout=60)

    def build(self, tag, body, contents=None, check=True):
        words = ["--argstr", "tag", tag, "--argstr", "bb", self.busybox, "--argstr", "tool", self.curl]
        if contents is not None:
            words += ["--argstr", "sri", sri(contents)]
        return self.client.run(
            "nix-build", HERE / "fetch.nix", *words, "--argstr", "body", body, "--no-out-link", "-j0",
            "--builders", self.server.builders(), check=check,
        )  # fmt: skip


@pytest.fixture(scope="module")
def internet():
    folder = make_scratch()
    with small_internet.SmallInternet(folder) as started:
        yield started
    drop_scratch(folder)


@pytest.fixture(scope="module")
def place(internet, module_scratch):
    opened = Place(module_scratch / "usual", internet)
    yield opened
    opened.close()


def test_public_addresses_and_names_are_reached_and_nothing_else(place):
    probes = {
        "address": f"http://{PUBLIC}/file",
        "name": f"http://{NAME}/file",
        "redirect": f"http://{PUBLIC}/moved",
        "unknown": "http://nowhere.example.org/file",
        "private": f"http://{PRIVATE}/file",
        "own": f"http://{DAEMON}/file",
        "loopback": "http://127.0.0.1/file",
        "gateway": "http://10.0.2.2/file",
        "resolver": "http://10.0.2.3/file",
    }
    body = "".join(f'echo "{name}: $(fetch {url})" >&2; ' for name, url in probes.items())
    body += f"fetch -o $out http://{NAME}/moved; cat /etc/nsswitch.conf >&2"
    done = place.build("reach", body, PAGE)
    with open(place.client.real(done.stdout.strip()), "rb") as file:
        assert file.read() == PAGE
    said = dict(
        line.split(": ", 1) for line in done.stderr.splitlines() if line.split(": ", 1)[0] in probes
    )
    page = PAGE.decode().strip()
    assert {name for name, what in said.items() if what == page} == {"address", "name", "redirect"}, done.stderr
    # Told at once, not after a time limit.
    for name in ("private", "own", "gateway", "resolver"):
        assert "(7) Failed to connect" in said[name], done.stderr
    assert "(7) Failed to connect" in said["loopback"], done.stderr
    assert "Could not resolve host" in said["unknown"], done.stderr
    assert "hosts: files dns" in done.stderr


def test_wrong_contents_are_told_with_both_hashes(place):
    done = place.build("wrong", f"fetch -o $out http://{NAME}/file", b"something else\n", check=False)
    assert done.returncode != 0
    assert "hash mismatch in fixed-output derivation" in done.stderr
    assert sri(PAGE) in done.stderr
    assert sri(b"something else\n") in done.stderr


def test_what_nix_fetches_by_itself(place):
    """`builtin:fetchurl`, as `<nix/fetchurl.nix>` has it: no program, a name to resolve, a redirect."""

    def fetch(url, contents, check=True):
        expression = (
            f'derivation {{ name = "fetched"; system = "builtin"; builder = "builtin:fetchurl"; url = "{url}"; '
            f'outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "{sri(contents)}"; }}'
        )
        return place.client.run(
            "nix-build", "-E", expression, "--no-out-link", "-j0", "--builders", place.server.builders(), check=check
        )

    done = fetch(f"http://{NAME}/moved", PAGE)
    with open(place.client.real(done.stdout.strip()), "rb") as file:
        assert file.read() == PAGE
    refused = fetch(f"http://{PRIVATE}/file", b"private\n", check=False)
    assert f"error: unable to download 'http://{PRIVATE}/file'" in refused.stderr
    unknown = fetch("http://nowhere.example.org/file", b"unknown\n", check=False)
    assert "cannot resolve host 'nowhere.example.org'" in unknown.stderr


def test_other_builds_have_no_network(place):
    body = f'echo "got: $(fetch http://{PUBLIC}/file)" >&2; $busybox/bin/busybox ls /etc >&2; echo done > $out'
    done = place.build("ordinary", body)
    assert "(7)" in done.stderr
    assert "hosts" in done.stderr
    assert "resolv.conf" not in done.stderr


def test_what_the_configuration_allows_is_reached(internet, module_scratch):
    place = Place(module_scratch / "allowing", internet, f'[sandbox]\nnetwork-allow = ["{PRIVATE}/32"]\n')
    try:
        done = place.build("allowed", f"fetch -o $out http://{PRIVATE}/file", PAGE)
        with open(place.client.real(done.stdout.strip()), "rb") as file:
            assert file.read() == PAGE
    finally:
        place.close()


def test_a_configuration_without_network(internet, module_scratch):
    place = Place(module_scratch / "closed", internet, "[sandbox]\nnetwork = false\n")
    try:
        done = place.build("closed", f"fetch -o $out http://{PUBLIC}/file; ls /etc >&2", PAGE, check=False)
        assert done.returncode != 0
        assert "no network: this builder's settings give none" in done.stderr
    finally:
        place.close()
