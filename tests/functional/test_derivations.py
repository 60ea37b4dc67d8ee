"""Derivations of every kind, built by each local Nix and through the server: what comes out is the same.

The cases are the files in tests/functional/derivations (CONTRIBUTING.md says how to add one). Each takes a
machine of some seconds, so that three of five are built here, always the same ones.
NIXBUILD_TEST_CASES=PATTERN (as for the shell: 'fixed_output.*', or '*' for all) chooses otherwise.
"""

import fnmatch
import json
import os
import re
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import HERE, Server, keep_log

import peers

pytestmark = pytest.mark.skipif(
    os.environ.get("NIXBUILD_TEST_SERVER", "nixbuild") != "nixbuild", reason="compares with our server"
)

# Case, or case@version: why it may come out otherwise than with that Nix. One that does not is an error.
ACCEPTED = {
    "output_checks.discarded_references@2.8.0": "unsafeDiscardReferences came with Nix 2.14",
}

# How a build ends without an output: what the message says, in the words of any version.
ENDS = [
    ("exit code", r"failed with exit code (\d+)"),
    ("signal", r"failed due to signal (\d+)"),
    ("no output", r"failed to produce output path"),
    ("ownership", r"suspicious ownership or permission"),
    ("hash", r"hash mismatch in fixed-output derivation"),
    ("not flat", r"should be a non-executable regular file|is not a regular file"),
    ("cycle", r"cycle detected in"),
    ("references", r"not allowed to refer to the following paths"),
    ("specifier", r"illegal reference specifier|output check.*contains"),
    ("size", r"path '[^']*' is too large"),
    ("closure size", r"closure of path '[^']*' is too large"),
    ("file type", r"has an unsupported type|unsupported type"),
    ("graph", r"exportReferencesGraph|cannot export references"),
    ("attributes", r"__json|must be a"),
    ("fixed references", r"illegal path references|which fixed outputs may not|makeFixedOutputPath|refer to other store paths"),
    ("sandbox", r"__noChroot|sandbox"),
    ("host paths", r"__impureHostDeps|requested impure path"),
    ("machine", r"is required to build|system-features|required system|unsupported system"),
    ("start", r"executing '[^']*'|could not be started"),
    ("input", r"dependenc(y|ies) .*|1 dependencies .* failed"),
]


def end_of(message):
    """The first that the message says: behind it stands what the client makes of it."""
    found = [(match.start(), name, match) for name, pattern in ENDS if (match := re.search(pattern, message))]
    if not found:
        return ("unknown", message[:500])
    _, name, match = min(found, key=lambda entry: entry[0])
    return (name, *match.groups()) if name in ("exit code", "signal") else (name,)


class Corpus:
    """The cases as derivations in a client's store."""

    def __init__(self, scratch):
        self.scratch = scratch
        self.bb = peers.busybox_folder(scratch)
        self.wanted = os.environ.get("NIXBUILD_TEST_CASES")

    def instantiate(self, client):
        """{case: .drv} and the .drvs to build."""
        expression = f'builtins.mapAttrs (n: d: d.drvPath) (import {HERE}/derivations {{ bb = "{self.bb}"; }})'
        told = client.run("nix-instantiate", "--eval", "--strict", "--json", "--read-write-mode", "-E", expression)
        return {case: path for case, path in json.loads(told.stdout).items() if self.wants(case)}

    def wants(self, case):
        if self.wanted:
            return fnmatch.fnmatch(case, self.wanted)
        return zlib.crc32(case.encode()) % 5 < 3


def outputs_of(client, drv):
    return client.run("nix-store", "-q", "--outputs", drv).stdout.split()


def facts_of(client, drv):
    """Of each output what its Nix has registered; None when one is missing."""
    outputs = outputs_of(client, drv)
    told = client.run("nix", "path-info", "--json", *outputs, check=False)
    if told.returncode:
        return None
    infos = json.loads(told.stdout)
    infos = {info["path"]: info for info in infos} if isinstance(infos, list) else infos
    if not all(infos.get(output) and infos[output].get("valid", True) for output in outputs):
        return None
    return {
        output: (infos[output]["narHash"], infos[output]["narSize"], sorted(infos[output]["references"]),
                 infos[output].get("deriver"), infos[output].get("ca"))
        for output in outputs
    }  # fmt: skip


def result_of(client, drv, *options):
    """What becomes of a derivation: facts, or how it ended. By itself, as an error may end all others."""
    done = client.run("nix-store", "--realise", drv, *options, check=False)
    if done.returncode == 0:
        return facts_of(client, drv)
    if re.search(r"error: .*executing '", done.stderr):
        return ("start",)  # as the log says; the builder's end is an exit status then
    # What the server said stands before what the client makes of it.
    said = re.search(r"on 'ssh[^']*' failed: (.*)", done.stderr, re.DOTALL)
    return end_of(said[1] if said else done.stderr)


def results_of(client, cases, at_once, *options):
    with ThreadPoolExecutor(at_once) as pool:
        return dict(zip(cases, pool.map(lambda drv: result_of(client, drv, *options), cases.values())))


@pytest.fixture(scope="module")
def corpus(module_scratch):
    return Corpus(module_scratch)


@pytest.fixture(scope="module")
def ours(module_scratch, corpus):
    """{case: result} through the server."""
    with Server(module_scratch) as server:
        client = peers.Client(module_scratch, "2.8.0", name="remote", sshd=server)
        cases = corpus.instantiate(client)
        builders = server.builders(slots=3, systems="x86_64-linux,i686-linux")
        yield results_of(client, cases, 3, "-j0", "--builders", builders)
        keep_log(server)


@pytest.fixture(scope="module", params=peers.VERSIONS)
def theirs(request, module_scratch, corpus):
    """(version, {case: result}) of a local Nix."""
    client = peers.Client(module_scratch, request.param, name=f"local-{request.param}")
    cases = corpus.instantiate(client)
    return request.param, results_of(client, cases, 4)


def test_same_outputs(theirs, ours):
    version, expected = theirs
    different = {case for case in expected if expected[case] != ours[case]}
    accepted = {case.partition("@")[0] for case in ACCEPTED if case.partition("@")[2] in ("", version)}
    wrong = different - accepted
    stale = (accepted & set(expected)) - different
    print(f"{len(expected)} cases, {len(different & accepted)} accepted differences")
    said = "\n".join(f"{case}\n  Nix {version}: {expected[case]}\n  server: {ours[case]}" for case in sorted(wrong))
    assert not wrong, f"{len(wrong)} of {len(expected)} cases differ\n{said}"
    assert not stale, f"accepted, and yet the same: {sorted(stale)}"
