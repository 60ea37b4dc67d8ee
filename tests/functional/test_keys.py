"""Keys from `nixbuild key add` to a real Nix client, by way of a real sshd that asks `nixbuild keys-for`."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

import peers
from conftest import SERVER
from test_cli import Cli

pytestmark = [
    pytest.mark.skipif(SERVER != "nixbuild", reason="about our own program"),
    pytest.mark.skipif(os.getuid() != 0, reason="sshd calls programs of root only"),
]


@pytest.fixture(scope="module")
def safe_folder():
    """A folder that sshd trusts: all of its path belongs to root and is writable by nobody else."""
    folder = Path(tempfile.mkdtemp(prefix="nixbuild-test-", dir="/run"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(module_scratch, safe_folder):
    command = safe_folder / "keys-for"
    state_dir = module_scratch / "state"
    command.write_text(
        f'#!/bin/sh\nexec {peers.program("nixbuild")} --state-dir {state_dir} keys-for "$@"\n'
    )
    command.chmod(0o755)
    with peers.Sshd(module_scratch, keys_command=command) as started:
        yield started
        print((started.folder / "sshd.log").read_text(errors="replace")[-5000:])


@pytest.fixture(scope="module")
def admin(server):
    made = Cli(server.state_dir)
    made.run("account", "add", "team-a")
    return made


@pytest.fixture(scope="module")
def client(module_scratch, server):
    return peers.Client(module_scratch, "2.8.0", sshd=server)


@pytest.fixture(scope="module")
def key(admin, server):
    """The client's key, let into the account team-a."""
    return admin.json("--account", "team-a", "key", "add", "--name", "laptop", f"{server.key}.pub")["id"]


@pytest.fixture
def permitted(admin, key):
    """Changes what the key may do, for one test."""

    def change(*options):
        admin.run("--account", "team-a", "key", "set", key, *options)

    yield change
    change("--permission", "default", "--expires", "never")


def new_key(folder, name):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name], check=True)
    return folder / name


def test_a_key_leads_into_its_account(server, admin, client, key, small):
    path = client.run("nix-build", *small.arguments("keys"), "--no-out-link").stdout.strip()
    client.run("nix", "copy", "--to", server.uri(), path)
    names = lambda account: [row["path"] for row in admin.json("--account", account, "path", "list")]
    assert path in names("team-a")
    assert names("default") == []
    assert json.loads(server.ssh("nixbuild", "account", "list", "--json").stdout)[0]["name"] == "team-a"
    (row,) = admin.json("--account", "team-a", "key", "list")
    assert row["lastUsed"] is not None
    assert row["name"] == "laptop"


def test_keys_for_answers_at_once(server, admin, key):
    kind, text = Path(f"{server.key}.pub").read_text().split()[:2]
    begin = time.monotonic()
    line = admin.run("keys-for", "anybody", kind, text).stdout
    assert time.monotonic() - begin < 1
    serve = f"{peers.program('nixbuild-serve')} --state-dir {server.state_dir} --account team-a --key {key}"
    assert line == f'restrict,pty,command="{serve}" {kind} {text} laptop\n'
    assert admin.run("keys-for", "anybody", kind, text[:-4] + "AAAA").stdout == ""
    assert admin.run("authorized-keys").stdout == line
    assert admin.run("authorized-keys", "--account", "default").stdout == ""
    copy = server.state_dir.parent / "copy-of-keys"
    shutil.copy(server.state_dir / "keys", copy)
    alone = subprocess.run(
        [peers.program("nixbuild"), "keys-for", "--keys-file", copy, "x", kind, text],
        env={}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert alone.stdout == line.replace(f" --state-dir {server.state_dir}", "")


def test_unknown_and_removed_keys_stay_outside(server, admin, key, module_scratch):
    stranger = new_key(module_scratch, "stranger")
    only = lambda: subprocess.run(
        ["ssh", *server.options().replace(str(server.key), str(stranger)).split(),
         f"{server.user}@{server.host}", "nixbuild", "account", "list"],
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert only().returncode == 255
    added = admin.json("key", "add", f"{stranger}.pub")
    assert only().returncode == 0
    admin.run("key", "remove", added["id"])
    assert only().returncode == 255


def test_expired_keys_stay_outside(server, admin, key, permitted):
    permitted("--expires", "1s")
    time.sleep(1.5)
    assert server.ssh("nixbuild", "account", "list").returncode == 255
    # The daemon does not rely on sshd.
    serve = [peers.program("nixbuild-serve"), "--state-dir", server.state_dir, "--account", "team-a"]
    refused = subprocess.run([*serve, "--key", str(key), "--serve"], capture_output=True, stdin=subprocess.DEVNULL)
    assert refused.returncode == 3
    assert b"expired" in refused.stderr
    for words, complaint in (
        ((*serve, "--key", "9999", "--serve"), b"does not lead into the account"),
        ((*serve[:-1], "default", "--key", str(key), "--serve"), b"does not lead into the account"),
        ((*serve[:-1], "nobody", "--serve"), b"there is no account"),
    ):
        refused = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL)
        assert refused.returncode == 3
        assert complaint in refused.stderr
    usage = subprocess.run([*serve, "--key", "x", "--serve"], capture_output=True, stdin=subprocess.DEVNULL)
    assert usage.returncode == 2


def test_a_key_may_do_what_it_is_permitted(server, admin, client, key, permitted, small, module_scratch):
    path = client.run("nix-build", *small.arguments("permitted"), "--no-out-link").stdout.strip()
    client.run("nix", "copy", "--to", server.uri(), path)
    more = client.run("nix-build", *small.arguments("more"), "--no-out-link").stdout.strip()
    permitted("--permission", "store:read")
    other = peers.Client(module_scratch, "2.8.0", name="reader", sshd=server)
    other.run("nix", "copy", "--from", server.uri(), "--no-check-sigs", path)
    assert client.run("nix", "copy", "--to", server.uri(), more, check=False).returncode != 0
    changed = server.ssh("nixbuild", "settings", "set", "max-cpu", "4")
    assert changed.returncode == 3
    assert b"account:write" in changed.stderr
    assert server.ssh("nixbuild", "builds").returncode == 3
    permitted("--permission", "build:read")
    refused = other.run("nix", "copy", "--from", server.uri(), "--no-check-sigs", path, check=False)
    assert refused.returncode != 0
    assert "store:read" in refused.stderr


def test_keys_are_added_over_ssh_by_who_may(server, admin, key, permitted, module_scratch):
    friend = new_key(module_scratch, "friend")
    text = Path(f"{friend}.pub").read_text()
    assert server.ssh("nixbuild", "key", "add", "-", input=text.encode()).returncode == 3
    permitted("--permission", "account:write")
    added = server.ssh("nixbuild", "key", "add", "--json", "-", input=text.encode())
    assert added.returncode == 0
    number = json.loads(added.stdout)["id"]
    assert number in [row["id"] for row in admin.json("--account", "team-a", "key", "list")]
    again = server.ssh("nixbuild", "key", "add", text.strip(), input=b"")
    assert again.returncode == 1
    assert server.ssh("nixbuild", "key", "remove", str(number), input=b"").returncode == 0
    quota = server.ssh("nixbuild", "settings", "set", "weight", "1000", input=b"")
    assert quota.returncode == 3
    assert b"operator" in quota.stderr


def test_settings_come_with_the_ssh_environment(server, admin, key):
    def shown(*variables):
        options = [word for variable in variables for word in ("-o", f"SetEnv={variable}")]
        done = server.ssh("nixbuild", "settings", "show", "max-cpu", "--json", options=options, input=b"")
        return done.returncode, done.stdout and json.loads(done.stdout)

    assert shown()[1]["source"] == "built-in"
    assert shown("NIXBUILDNET_MAX_CPU=4")[1]["value"] == 4
    admin.run("--account", "team-a", "settings", "set", "max-cpu", "2", "--key", key)
    status, row = shown("NIXBUILD_MAX_CPU=8")
    assert status == 0
    assert (row["value"], row["source"]) == (2, "key")
    assert row["overridden"] == [{"level": "ssh-env", "value": 8}]
    assert shown("NIXBUILD_MAX_CPU=many")[0] == 1
    # Settings are the client's to choose, the folder of the server is not.
    status, row = shown("NIXBUILD_STATE_DIR=/nonexistent")
    assert (status, row["value"]) == (0, 2)


def test_an_account_with_keys_is_kept(server, admin, module_scratch):
    admin.run("account", "add", "short-lived")
    guest = new_key(module_scratch, "guest")
    admin.run("--account", "short-lived", "key", "add", f"{guest}.pub")
    assert "1 keys" in admin.run("account", "remove", "short-lived", status=1).stderr
    admin.run("account", "remove", "--force", "short-lived")
    assert "short-lived" not in admin.run("authorized-keys").stdout


def test_key_files_that_are_none(admin, module_scratch):
    assert "opening" in admin.run("key", "add", module_scratch / "missing.pub", status=4).stderr
    secret = new_key(module_scratch, "secret")
    assert "private key" in admin.run("key", "add", secret, status=1).stderr
    assert "no public SSH key" in admin.run("key", "add", "/etc/hostname", status=1).stderr
