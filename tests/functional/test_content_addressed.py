"""Derivations whose output paths are made of what comes out: each Nix by itself, with the server as a builder,
and with the server as its store."""

import json

import conftest
import peers
import pytest
from conftest import HERE, Server, keep_log
from test_derivations import end_of

pytestmark = pytest.mark.skipif(conftest.SERVER != "nixbuild", reason="compares with our server")

FAILING = {"circle", "fails"}


def cases_of(client, bb):
    told = client.run(
        "nix-instantiate", "--eval", "--strict", "--json", "-E",
        f'builtins.attrNames (import {HERE}/content_addressed.nix {{ bb = "{bb}"; }})',
    )  # fmt: skip
    return json.loads(told.stdout)


def client_of(scratch, version, name, **more):
    return peers.Client(scratch, version, name=f"{name}-{version}", experimental="ca-derivations", **more)


def words_for(bb, case):
    return [HERE / "content_addressed.nix", "--argstr", "bb", bb, "-A", case]


def infos(client, paths, *where):
    told = json.loads(client.run("nix", "path-info", "--json", *where, *paths).stdout)
    told = {info["path"]: info for info in told} if isinstance(told, list) else told
    return {path: (told[path]["narHash"], sorted(told[path]["references"]), told[path].get("ca")) for path in paths}


def built(client, bb, case, *options):
    """What nix-build makes of a case: what is known of its outputs, or how it ended."""
    done = client.run("nix-build", *words_for(bb, case), "--no-out-link", *options, check=False)
    return infos(client, done.stdout.split()) if done.returncode == 0 else end_of(done.stderr)


@pytest.fixture(scope="module")
def server(module_scratch):
    with Server(module_scratch) as started:
        yield started
        keep_log(started)


@pytest.fixture(scope="module")
def bb(module_scratch):
    return peers.busybox_folder(module_scratch)


@pytest.fixture(scope="module", params=peers.VERSIONS)
def alone(request, module_scratch, bb):
    """(version, {case: result}) of a local Nix."""
    client = client_of(module_scratch, request.param, "alone")
    return request.param, {case: built(client, bb, case) for case in cases_of(client, bb)}


def test_alone(alone):
    """What is compared with is what it should be."""
    _, expected = alone
    assert {case for case, result in expected.items() if isinstance(result, tuple)} == FAILING


@pytest.mark.parametrize("scheme", peers.SCHEMES)
def test_as_a_builder(scheme, alone, module_scratch, server, bb):
    version, expected = alone
    client = client_of(module_scratch, version, f"hook-{scheme}", sshd=server, scheme=scheme)
    builders = server.builders(slots=2, features="ca-derivations", scheme=scheme)
    # Serve 2.7 does not tell Nix versions apart that name contents with references to themselves otherwise.
    left_out = {"itself", "branch"} if (version, scheme) == ("2.8.0", "ssh") else set()
    reach = {"tree", "by_path", "behind", "far_behind", "known_behind", "hidden_behind", "outputs", "attributes", "behind_outputs"}
    left_out |= reach if left_out else set()
    got = {
        case: built(client, bb, case, "-j0", "--builders", builders)
        for case in expected if case not in left_out
    }  # fmt: skip
    assert got == {case: result for case, result in expected.items() if case not in left_out}


def test_as_the_store(alone, module_scratch, server, bb):
    version, expected = alone
    client = client_of(module_scratch, version, "store", sshd=server, scheme="ssh-ng")
    where = ["--store", client.remote]
    for case, result in expected.items():
        done = client.run(
            "nix", "build", "--impure", "--no-link", "--json", *where, "--eval-store", "auto",
            "-f", *words_for(bb, case)[:-2], case, check=False,
        )  # fmt: skip
        if case in FAILING:
            assert done.returncode != 0, case
            assert end_of(done.stderr) == result
            continue
        assert done.returncode == 0, done.stderr
        outputs = sorted(json.loads(done.stdout)[0]["outputs"].values())
        assert infos(client, sorted(result), *where) == result, (case, outputs)
        assert set(outputs) >= set(result), case


def test_impure(module_scratch, server, bb):
    """An impure derivation is built whenever it is asked for, and what comes of it is content-addressed."""
    version = peers.VERSIONS[-1]
    client = peers.Client(
        module_scratch, version, name="impure", experimental="ca-derivations impure-derivations",
        sshd=server, scheme="ssh-ng",
    )  # fmt: skip
    expression = f"""
      let busybox = builtins.path {{ path = {bb}; name = "bb"; }};
          make = attributes: derivation ({{
            system = "x86_64-linux"; builder = "${{busybox}}/bin/sh";
          }} // attributes);
          moment = make {{ name = "moment"; __impure = true; args = [ "-c" "cat /proc/sys/kernel/random/uuid > $out" ]; }};
      in make {{
        name = "behind"; __impure = true; inherit moment; args = [ "-c" "read id < $moment; echo $id $moment > $out" ];
      }}"""
    words = ["nix", "build", "--impure", "--no-link", "--json", "--eval-store", "auto", "--store", client.remote]
    paths = [
        json.loads(client.run(*words, "--expr", expression).stdout)[0]["outputs"]["out"] for _ in range(2)
    ]
    assert paths[0] != paths[1]
    for path in paths:
        identity, moment = client.run("nix", "store", "cat", "--store", client.remote, path).stdout.split()
        (_, references, address), = infos(client, [path], "--store", client.remote).values()
        assert references == [moment]
        assert address.startswith("fixed:r:sha256:")
        assert client.run("nix", "store", "cat", "--store", client.remote, moment).stdout.strip() == identity


GIT = """
  let busybox = builtins.path { path = %s; name = "bb"; };
      tree = "$busybox/bin/busybox mkdir $out $out/a $out/empty; echo hello > $out/a/file; echo x > $out/a.b; "
        + "echo y > $out/a-b; echo run > $out/run; $busybox/bin/busybox chmod 755 $out/run; "
        + "$busybox/bin/busybox ln -s a/file $out/link";
      make = name: body: more: derivation ({
        inherit name busybox;
        system = "x86_64-linux"; builder = "${busybox}/bin/sh"; outputHashMode = "git"; args = [ "-c" body ];
      } // more);
      floating = algorithm: { __contentAddressed = true; outputHashAlgo = algorithm; };
  in {
    tree = make "git-tree" tree (floating "sha1");
    file = make "git-file" "echo hello > $out" (floating "sha1");
    fixed = make "git-fixed" "echo hello > $out" {
      outputHashAlgo = "sha1"; outputHash = "ce013625030ba8dba906f756967f9e9ca394464a";
    };
    wrong = make "git-wrong" "echo hallo > $out" {
      outputHashAlgo = "sha1"; outputHash = "ce013625030ba8dba906f756967f9e9ca394464a";
    };
  }
"""


def test_git_names(module_scratch, server, bb):
    """Outputs and sources that are named as Git names them, which newer Nix alone knows. (2.26.3 fails to build
    such outputs itself, so that the names are compared that it gives to the same trees when it adds them.)"""
    version = peers.VERSIONS[-1]
    more = {"experimental": "ca-derivations git-hashing"}
    expression = module_scratch / "git.nix"
    expression.write_text(GIT % bb)
    alone = peers.Client(module_scratch, version, name="git-alone", **more)

    def name_of(tree, name):
        words = ["nix", "store", "add", "--mode", "git", "--hash-algo", "sha1", "--name", name, tree]
        return alone.run(*words).stdout.strip()

    for scheme in peers.SCHEMES:
        client = peers.Client(module_scratch, version, name=f"git-{scheme}", sshd=server, scheme=scheme, **more)
        options = ["--no-out-link", "-j0", "--builders", server.builders(features="ca-derivations", scheme=scheme)]
        for case in ("tree", "file", "fixed"):
            path = client.run("nix-build", expression, "-A", case, *options).stdout.strip()
            assert path == name_of(f"{client.root}{path}", f"git-{case}"), (scheme, case)
            assert infos(client, [path]) == infos(alone, [path])
        failed = client.run("nix-build", expression, "-A", "wrong", *options, check=False)
        assert failed.returncode != 0 and "hash mismatch in fixed-output derivation" in failed.stderr

    client = peers.Client(module_scratch, version, name="git-store", sshd=server, scheme="ssh-ng", **more)
    path = name_of(bb, "bb")
    assert client.run("nix", "store", "add", "--mode", "git", "--hash-algo", "sha1", bb, "--store", client.remote).stdout.strip() == path
    assert infos(client, [path], "--store", client.remote) == infos(alone, [path])
    # Whoever copies it has its name checked, there and back.
    client.run("nix", "copy", "--from", client.remote, "--no-check-sigs", path)
    assert infos(client, [path]) == infos(alone, [path])
    other = name_of(HERE / "derivations", "derivations")
    alone.sshd = server
    alone.run("nix", "copy", "--to", client.remote, other)
    assert infos(client, [other], "--store", client.remote) == infos(alone, [other])


COPIED = """
  let busybox = builtins.path {{ path = {bb}; name = "bb"; }};
      make = name: more: derivation ({{
        inherit name busybox;
        system = "x86_64-linux"; builder = "${{busybox}}/bin/sh"; args = [ "-c" "echo hello > $out" ];
      }} // more);
      plain = make "copied-plain" {{ }};
  in {{
    inherit plain;
    outputs = make "copied-outputs" {{ outputs = [ "out" "dev" ]; args = [ "-c" "echo a > $out; echo $out > $dev" ]; }};
    behind = make "copied-behind" {{ inherit plain; args = [ "-c" "echo $plain > $out" ]; }};
    fixed = make "copied-fixed" {{
      outputHashAlgo = "sha256"; outputHash = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    }};
    floating = make "copied-floating" {{ __contentAddressed = true; }};
    deferred = make "copied-deferred" {{ floating = make "copied-below" {{ __contentAddressed = true; }}; }};
  }}
"""


def test_copying_what_a_client_has_built(module_scratch, server, bb):
    """`nix copy INSTALLABLE` asks where each output is by its derivation's hash, whatever kind of output it is, and a
    client with ca-derivations on ends with a failed assertion when nobody knows."""
    expression = module_scratch / "copied.nix"
    expression.write_text(COPIED.format(bb=bb))
    client = client_of(module_scratch, peers.VERSIONS[-1], "copying", sshd=server, scheme="ssh-ng")
    where = ["--from", client.remote, "--eval-store", "auto", "--no-check-sigs", "--impure", "-f", expression]
    told = {}
    for case in ("plain", "outputs^*", "behind", "fixed", "floating", "deferred"):
        for _ in range(2):  # built, and found there
            done = client.run("nix", "copy", *where, case, check=False)
            assert done.returncode == 0, (case, done.stderr)
        built_here = client.run("nix", "build", "--impure", "--json", "--no-link", "-f", expression, case, "-j0")
        told[case] = json.loads(built_here.stdout)[0]["outputs"]
    for case, outputs in told.items():
        assert infos(client, sorted(outputs.values())), case
