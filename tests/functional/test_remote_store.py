"""Real Nix clients that use the server's store as their own: evaluate here, build and keep there."""

import json
import signal
import subprocess
import time

import peers
import pytest

from conftest import HERE, SERVER


@pytest.fixture
def client(worker_client):
    return worker_client


def unique(client, name):
    return f"{name}-{client.version.replace('.', '-')}"


def nix_build(client, *words, check=True, remote=True, **more):
    """`nix build` with the server as the store."""
    where = ["--store", client.remote, "--eval-store", "auto"] if remote else []
    return client.run("nix", "build", "-L", "--impure", "--no-link", *where, *words, check=check, **more)


def output_of(client, small, tag, **more):
    """The path that a derivation will have."""
    drv = small.instantiate(client, tag, **more)
    return client.run("nix-store", "-q", "--outputs", drv).stdout.split()[0]


@pytest.fixture(scope="module")
def kept(worker_client, server, small):
    """Something that was built and is kept on the server: a folder that refers to its input."""
    tag = unique(worker_client, "kept")
    body = 'mkdir -p $out/d; echo "$busybox" > $out/d/refs; echo text > $out/file; ln -s d $out/link'
    nix_build(worker_client, "-f", *small.arguments(tag, body=body))
    return output_of(worker_client, small, tag, body=body)


def infos(done):
    told = json.loads(done.stdout)
    return {info["path"]: info for info in told} if isinstance(told, list) else told


def test_build_and_keep_there(client, server, small):
    tag = unique(client, "there")
    done = nix_build(client, "-f", *small.arguments(tag))
    assert f"log-line-for-{tag}" in done.stderr
    path = output_of(client, small, tag)
    assert not client.real(path).exists(), "nothing comes to the client unless it is asked for"
    assert client.run("nix", "store", "cat", "--store", client.remote, path).stdout == f"built-{tag}\n"


def test_build_there_without_evaluating_here(client, server, small):
    tag = unique(client, "all-there")
    done = client.run("nix-build", *small.arguments(tag), "--no-out-link", "--store", client.remote)
    assert f"log-line-for-{tag}" in done.stderr
    path = done.stdout.strip()
    client.run("nix", "copy", "--from", client.remote, "--no-check-sigs", path)
    assert client.real(path).read_text() == f"built-{tag}\n"


def test_build_again_needs_nothing(client, server, small, kept):
    tag = unique(client, "kept")
    body = 'mkdir -p $out/d; echo "$busybox" > $out/d/refs; echo text > $out/file; ln -s d $out/link'
    done = nix_build(client, "-f", *small.arguments(tag, body=body))
    assert "log-line-for" not in done.stderr


def test_failing_build(client, server, small):
    tag = unique(client, "failing")
    done = nix_build(client, "-f", *small.arguments(tag, body="echo last-words >&2; exit 7"), check=False)
    assert done.returncode != 0
    assert "last-words" in done.stderr
    assert "exit code 7" in done.stderr


def test_missing_output(client, server, small):
    done = nix_build(client, "-f", *small.arguments(unique(client, "nothing"), body="true"), check=False)
    assert done.returncode != 0
    assert "failed to produce output" in done.stderr


def test_two_outputs(client, server, small):
    tag = unique(client, "outputs")
    more = {"outputs": ["out", "lib"]}
    body = 'echo one > $out; mkdir $lib; echo "$out" > $lib/ref'
    nix_build(client, "-f", *small.arguments(tag, body=body, more=more))
    drv = small.instantiate(client, tag, body=body, more=more)
    outputs = client.run("nix-store", "-q", "--outputs", drv).stdout.split()
    told = infos(client.run("nix", "path-info", "--json", "--store", client.remote, *outputs))
    assert sorted(told) == sorted(outputs)


def test_path_info(client, kept):
    told = infos(client.run("nix", "path-info", "--json", "-S", "--store", client.remote, kept))[kept]
    assert told["narSize"] > 0
    assert told["closureSize"] > told["narSize"]
    assert len(told["references"]) == 1
    everything = client.run("nix", "path-info", "-r", "--store", client.remote, kept).stdout.split()
    assert kept in everything and len(everything) == 2


def test_list_and_read_files(client, kept):
    listed = client.run("nix", "store", "ls", "-R", "--store", client.remote, kept).stdout.split()
    assert sorted(word.removeprefix(".") for word in listed) == sorted(
        word.removeprefix(".") for word in ["./d", "./d/refs", "./file", "./link"]
    )
    done = client.run("nix", "store", "cat", "--store", client.remote, f"{kept}/file")
    assert done.stdout == "text\n"


def test_questions_of_the_old_commands(client, small, kept):
    ask = lambda *words: client.run("nix-store", "--store", client.remote, "-q", *words).stdout.split()
    references = ask("--references", kept)
    assert [reference[-3:] for reference in references] == ["-bb"]
    assert kept in ask("--referrers", references[0])
    assert sorted(ask("--requisites", kept)) == sorted([kept, *references])
    assert ask("--hash", kept)[0].startswith("sha256:")
    assert ask("--deriver", kept)[0].endswith(".drv")


def test_verify(client, kept):
    client.run("nix", "store", "verify", "--no-trust", "--store", client.remote, kept)
    done = client.run("nix-store", "--store", client.remote, "--verify", "--check-contents")
    assert "error" not in done.stderr


def test_sign_and_signatures(client, kept, module_scratch):
    key = module_scratch / f"key-{client.version}"
    if not key.exists():
        key.write_text(client.run("nix", "key", "generate-secret", "--key-name", "test-1").stdout)
    word = ["store", "sign"]
    client.run("nix", *word, "--store", client.remote, "-k", key, kept)
    told = infos(client.run("nix", "path-info", "--json", "--store", client.remote, kept))[kept]
    assert any(signature.startswith("test-1:") for signature in told["signatures"])
    if SERVER == "nixbuild":
        assert len(told["signatures"]) >= 2, "what is built here is signed here"


def test_copy_a_derivation(client, server, small):
    tag = unique(client, "drv")
    drv = small.instantiate(client, tag)
    client.run("nix", "copy", "--derivation", "--to", client.remote, drv)
    closure = client.run("nix-store", "-q", "--requisites", drv).stdout.split()
    told = client.run("nix-store", "--store", client.remote, "-q", "--requisites", drv).stdout.split()
    assert sorted(told) == sorted(closure)
    # Built by name alone: nothing is evaluated, nothing is sent.
    installable = f"{drv}" if client.version == "2.8.0" else f"{drv}^*"
    client.run("nix", "build", "--no-link", "--store", client.remote, installable)
    path = client.run("nix-store", "-q", "--outputs", drv).stdout.strip()
    assert client.run("nix", "store", "cat", "--store", client.remote, path).stdout == f"built-{tag}\n"


def test_add_files(client, module_scratch):
    file = module_scratch / f"added-{client.version}"
    file.write_text(f"contents of {client.version}\n")
    flat = client.run("nix", "store", "add-file", "--store", client.remote, file).stdout.strip()
    assert client.run("nix", "store", "cat", "--store", client.remote, flat).stdout == file.read_text()
    folder = module_scratch / f"folder-{client.version}"
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    (folder / "sub/file").write_text("inside\n")
    tree = client.run("nix", "store", "add-path", "--store", client.remote, folder).stdout.strip()
    assert client.run("nix", "store", "cat", "--store", client.remote, f"{tree}/sub/file").stdout == "inside\n"
    assert client.run("nix", "store", "add-path", folder).stdout.strip() == tree


def graph(client, small, tag, *more):
    return [HERE / "graph.nix", "--argstr", "tag", tag, "--argstr", "bb", small.bb, *more]


def test_diamond(client, server, small):
    width = 12
    tag = unique(client, "diamond")
    words = graph(client, small, tag, "--arg", "width", str(width))
    nix_build(client, "-f", *words, "top", timeout=900)
    drv = client.run("nix-instantiate", *words, "-A", "top").stdout.strip()
    path = client.run("nix-store", "-q", "--outputs", drv).stdout.strip()
    text = client.run("nix", "store", "cat", "--store", client.remote, path).stdout
    assert text.split() == [str(n) for n in range(width)]


def test_dry_run_says_what_is_missing(client, server, small):
    words = graph(client, small, unique(client, "dry"))
    done = client.run("nix-build", "--dry-run", "--store", client.remote, *words, "-A", "top")
    assert done.stderr.count(".drv") == 5


def test_failure_in_a_graph(client, server, small):
    words = graph(client, small, unique(client, "broken"), "--arg", "bad", "1")
    done = nix_build(client, "-f", *words, "top", check=False)
    assert done.returncode != 0
    assert "no-1" in done.stderr
    assert "exit code 1" in done.stderr


def test_import_from_derivation(client, server, small):
    tag = unique(client, "ifd")
    body = "echo '{ value = 42; }' > $out"
    expression = (
        f'(import (import {HERE}/small.nix {{ tag = "{tag}"; bb = "{small.bb}"; body = "{body}"; }})).value'
    )
    where = ["--store", client.remote, "--eval-store", "auto"]
    done = client.run("nix", "eval", "--impure", *where, "--expr", expression)
    assert done.stdout.strip() == "42"


def test_copy_both_ways(client, small, kept, module_scratch):
    other = type(client)(
        module_scratch, client.version, name=unique(client, "other"), sshd=client.sshd, scheme="ssh-ng"
    )
    other.run("nix", "copy", "--from", client.remote, "--no-check-sigs", kept)
    assert other.real(kept + "/file").read_text() == "text\n"
    other.run("nix-store", "--verify", "--check-contents")
    other.run("nix", "copy", "--to", client.remote, kept)


def test_many_paths(client, module_scratch):
    """Thousands of small paths go over in one request, and are asked for again in one."""
    count = 1500
    expression = (
        f'builtins.genList (n: builtins.toFile "many-{client.version}-${{toString n}}" (toString n)) {count}'
    )
    listed = client.run("nix", "eval", "--json", "--expr", expression).stdout
    done = client.run("nix-instantiate", "--eval", "--strict", "--json", "-E", expression)
    paths = json.loads(done.stdout)
    assert json.loads(listed) == paths
    client.run("nix", "copy", "--to", client.remote, *paths)
    told = client.run("nix", "path-info", "--store", client.remote, *paths).stdout.split()
    assert len(told) == count


def test_unknown_path(client):
    missing = "/nix/store/00000000000000000000000000000000-nothing"
    done = client.run("nix", "path-info", "--store", client.remote, missing, check=False)
    assert done.returncode != 0
    assert "is not valid" in done.stderr
    done = client.run("nix", "build", "--no-link", "--store", client.remote, missing, check=False)
    assert done.returncode != 0


def test_rebuild_compares(client, server, small):
    """`--rebuild` builds what is valid again; what differs is told file by file."""
    tag = unique(client, "again")
    nix_build(client, "-f", *small.arguments(tag))
    same = nix_build(client, "-f", *small.arguments(tag), "--rebuild")
    assert f"log-line-for-{tag}" in same.stderr
    assert "built again: every output is the same" in same.stderr
    tag = unique(client, "never-the-same")
    body = "mkdir $out; echo same > $out/same; cat /proc/sys/kernel/random/uuid > $out/id"
    nix_build(client, "-f", *small.arguments(tag, body=body))
    path = output_of(client, small, tag, body=body)
    kept = client.run("nix", "store", "cat", "--store", client.remote, f"{path}/id").stdout
    other = nix_build(client, "-f", *small.arguments(tag, body=body), "--rebuild", check=False)
    assert other.returncode != 0
    assert "may not be deterministic" in other.stderr
    assert f"{path} differs: id: differs from byte" in other.stderr
    assert client.run("nix", "store", "cat", "--store", client.remote, f"{path}/id").stdout == kept
    unbuilt = nix_build(client, "-f", *small.arguments(unique(client, "never-built")), "--rebuild", check=False)
    assert "are not valid, so checking is not possible" in unbuilt.stderr


def test_interrupt_ends_the_build(client, server, small):
    tag = unique(client, "interrupt")
    where = ["--store", client.remote, "--eval-store", "auto"]
    words = ["nix", "build", "-L", "--impure", "--no-link", *where]
    process = subprocess.Popen(
        [str(w) for w in [*words, "-f", *small.arguments(tag, body="echo begun >&2; sleep 600")]],
        env=client.environment(),
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 120
    for line in process.stderr:
        if "begun" in line or time.monotonic() > deadline:
            break
    process.send_signal(signal.SIGINT)
    process.stderr.close()
    assert process.wait(60) != 0
    if SERVER == "nixbuild":
        wait_until_idle(server)


def wait_until_idle(server):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done = subprocess.run(
            [peers.program("nixbuild"), "--state-dir", server.state_dir, "builds", "--json"],
            stdout=subprocess.PIPE,
            check=True,
        )
        if not [b for b in json.loads(done.stdout) if b["status"] in (None, "running")]:
            return
        time.sleep(0.5)
    raise AssertionError("a build still runs")


def collect_some(client, small):
    """What is dead and alive, single paths with what refers to them, and no more than is enough."""
    store = ["nix-store", "--store", client.remote]
    low = json.loads(client.run("nix", "eval", "--json", "--expr", 'builtins.toFile "low" "low"').stdout)
    expression = f'builtins.toFile "high" (builtins.storePath {low} + "")'
    high = json.loads(client.run("nix", "eval", "--impure", "--json", "--expr", expression).stdout)
    client.run("nix", "copy", "--to", client.remote, high)
    dead = client.run(*store, "--gc", "--print-dead").stdout.split()
    assert low in dead and high in dead
    assert low not in client.run(*store, "--gc", "--print-live").stdout.split()
    client.run(*store, "--gc", "--print-roots")
    client.run("nix", "store", "delete", "--store", client.remote, high)
    left = client.run(*store, "--gc", "--print-dead").stdout.split()
    assert low in left and high not in left
    client.run("nix", "store", "gc", "--store", client.remote, "--max", "1")
    assert len(client.run(*store, "--gc", "--print-dead").stdout.split()) == len(left) - 1


def test_collect_garbage(client, server, small, kept):
    """Last: it empties the account. A key may only do it when it was told so."""
    if SERVER == "nixbuild":
        done = client.run("nix", "store", "gc", "--store", client.remote, check=False)
        assert done.returncode != 0 and "account:write" in done.stderr
        settings = [peers.program("nixbuild"), "--state-dir", server.state_dir, "settings"]
        wide = "store:read,store:write,build:read,build:write,account:write"
        subprocess.run([*settings, "set", "default-permissions", wide], check=True)
        collect_some(client, small)
        client.run("nix", "store", "gc", "--store", client.remote)
        subprocess.run([*settings, "unset", "default-permissions"], check=True)
    else:
        client.run("nix", "store", "gc", "--store", client.remote)
    done = client.run("nix", "path-info", "--store", client.remote, kept, check=False)
    assert done.returncode != 0
