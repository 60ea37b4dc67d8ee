"""The program nixbuild: every command, its exit status, its JSON, and what SSH sessions may do with it."""

import json
import os
import shutil
import re
import signal
import subprocess
import time

import pytest

import peers
from conftest import SERVER, import_kernel, kernel_files

pytestmark = pytest.mark.skipif(SERVER != "nixbuild", reason="about our own program")

COMMANDS = (
    "account add|account list|account remove|key add|key list|key set|key remove|settings show|settings set|"
    "settings unset|keys-for|authorized-keys|builds|why|cancel|log|attach|usage|drain|undrain|path info|path list|path cat|path verify|gc|run|"
    "nar ls|nar cat|nar pack|nar unpack|kernel import|kernel list|"
    "token add|token list|token remove|doctor"
).split("|")


class Cli:
    """nixbuild with a state directory of its own."""

    def __init__(self, state_dir):
        self.state_dir = state_dir

    def command(self, *words):
        return [str(word) for word in (peers.program("nixbuild"), "--state-dir", self.state_dir, *words)]

    def run(self, *words, status=0, text=True, timeout=240, **more):
        more.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(self.command(*words), capture_output=True, text=text, timeout=timeout, **more)
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words, **more):
        return json.loads(self.run(*words, "--json", **more).stdout)


@pytest.fixture
def cli(scratch):
    made = Cli(scratch / "state")
    yield made
    peers.end_family(str(made.state_dir))


@pytest.fixture(scope="module")
def admin(server):
    """The program beside a server that has a kernel."""
    return Cli(server.state_dir)


@pytest.fixture(scope="module")
def client(module_scratch, server):
    return peers.Client(module_scratch, "2.8.0", sshd=server)


@pytest.fixture
def tree(scratch):
    folder = scratch / "tree"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/hello").write_text("#!/bin/sh\n")
    (folder / "bin/hello").chmod(0o755)
    (folder / "data").write_bytes(os.urandom(300_000))
    (folder / "link").symlink_to("bin/hello")
    return folder


# Words and help


def test_help_of_everything(cli):
    overview = cli.run("--help").stdout
    assert cli.run("help").stdout == overview
    for command in COMMANDS:
        assert f"  {command}" in overview
        told = cli.run(*command.split(), "--help").stdout
        assert told.startswith(f"Usage: nixbuild {command}")
    assert not cli.state_dir.exists()


@pytest.mark.parametrize(
    "words",
    ["", "frobnicate", "path", "path info", "log", "builds --nothing", "builds --limit x", "nar cat one", "run", "log 1 2"],
)
def test_usage_errors(cli, words):
    done = cli.run(*words.split(), status=2)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")


def test_without_a_daemon(cli):
    done = cli.run("--no-autostart", "builds", status=4)
    assert "no daemon runs" in done.stderr


def test_state_dir_of_the_environment(cli, scratch):
    environment = {**os.environ, "NIXBUILD_STATE_DIR": str(cli.state_dir)}
    command = [str(peers.program("nixbuild")), "account", "list", "--json"]
    told = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    assert json.loads(told.stdout) == [{"name": "default", "paths": 0}]
    assert (cli.state_dir / "metadata.sqlite").exists()


# Archives


def test_nar_there_and_back(cli, tree, scratch):
    archive = cli.run("nar", "pack", tree, text=False).stdout
    by_nix = subprocess.run(["nix-store", "--dump", tree], stdout=subprocess.PIPE, check=True).stdout
    assert archive == by_nix
    file = scratch / "tree.nar"
    cli.run("nar", "pack", "--output", file, tree)
    assert file.read_bytes() == archive

    assert "./bin/hello" in cli.run("nar", "ls", file).stdout
    listed = cli.json("nar", "ls", file)
    assert listed["entries"]["data"]["size"] == 300_000
    assert listed["entries"]["bin"]["entries"]["hello"]["executable"] is True
    assert cli.run("nar", "cat", file, "data", text=False).stdout == (tree / "data").read_bytes()
    assert cli.run("nar", "cat", file, "/bin//hello").stdout == "#!/bin/sh\n"

    cli.run("nar", "unpack", "-", scratch / "copy", stdin=open(file, "rb"))
    assert subprocess.run(["nix-store", "--dump", scratch / "copy"], stdout=subprocess.PIPE).stdout == archive


def test_nar_errors(cli, tree, scratch):
    file = scratch / "tree.nar"
    cli.run("nar", "pack", "--output", file, tree)
    cli.run("nar", "cat", file, "none", status=4)
    cli.run("nar", "cat", file, "link", status=1)
    cli.run("nar", "ls", scratch / "none", status=4)
    cli.run("nar", "pack", scratch / "none", status=4)
    cut = scratch / "cut.nar"
    cut.write_bytes(file.read_bytes()[:-50])
    for broken in (cut.read_bytes(), file.read_bytes() + b"x", b"no archive"):
        cut.write_bytes(broken)
        cli.run("nar", "ls", cut, status=1)
        cli.run("nar", "unpack", cut, scratch / "broken", status=1)
        assert not (scratch / "broken").exists()
    done = cli.run("nar", "unpack", file, tree, status=1)
    assert "exists already" in done.stderr
    assert (tree / "bin/hello").exists()


# This machine


def test_doctor(cli):
    done = subprocess.run(cli.command("doctor", "--json"), capture_output=True, timeout=60)
    findings = {found["check"]: found for found in json.loads(done.stdout)}
    assert {"state directory", "daemon", "accelerator", "kernel", "qemu", "busybox", "cgroup", "walls", "disk space", "open files"} <= set(findings)
    assert all(found["level"] in ("ok", "warning", "problem") for found in findings.values())
    assert all(found["advice"] for found in findings.values() if found["level"] != "ok")
    problems = [found for found in findings.values() if found["level"] == "problem"]
    assert done.returncode == (1 if problems else 0)
    assert not cli.state_dir.exists()


def test_doctor_with_a_kernel_and_a_daemon(admin):
    admin.run("builds")
    findings = {found["check"]: found for found in admin.json("doctor")}
    assert findings["kernel"]["level"] == "ok"
    assert re.fullmatch(r"runs, tick \d+ s ago, sync \d+ s ago", findings["daemon"]["says"])
    assert findings["qemu"]["says"].startswith("QEMU emulator version")
    assert "because it was imported last" in findings["kernel"]["says"]
    # The import has tried one, which is remembered.
    assert (findings["machine"]["level"], findings["machine"]["says"]) == (
        "ok", "one with this kernel has booted, mounted its inputs and run a builder",
    )  # fmt: skip


def test_doctor_sees_a_bad_configuration(cli, scratch):
    config = scratch / "nixbuild.toml"
    config.write_text('[sandbox]\nkernel-image = "/nowhere/vmlinuz"\nshell = "/nowhere/sh"\n')
    done = cli.run("--config", config, "doctor", "--json", status=1)
    findings = {found["check"]: found["level"] for found in json.loads(done.stdout)}
    assert (findings["kernel"], findings["busybox"]) == ("problem", "problem")
    config.write_text("[builds]\ncpu = 3\n")
    done = cli.run("--config", config, "doctor", status=1)
    assert f"{config}:2" in done.stdout


def test_kernels(admin, cli, scratch):
    assert cli.json("kernel", "list") == []
    kernels = admin.json("kernel", "list")
    assert len(kernels) == 1 and kernels[0]["modules"] > 0
    assert kernels[0]["used"] and kernels[0]["imported"]
    assert kernels[0]["version"] + " is used, because it was imported last" in admin.run("kernel", "list").stdout
    cli.run("kernel", "import", scratch / "none", status=4)
    cli.run("kernel", "import", "/bin/sh", "/usr", status=4)
    assert cli.json("kernel", "list") == []


def test_the_kernel_of_common_machines(cli):
    """The one that Debian installs on hardware has as modules what its cloud kernel has built in."""
    told = cli.json("kernel", "import", *kernel_files("kernel-stock"), timeout=400)
    assert told["tried"].startswith("tried: a machine with it works")
    again = cli.json("kernel", "import", *kernel_files("kernel-stock"))
    assert again["tried"] == "known to work"
    assert [kernel["used"] for kernel in cli.json("kernel", "list")] == [True]


def test_a_kernel_that_cannot_mount_is_refused(cli, scratch):
    image, modules = kernel_files("kernel-stock")
    maimed = scratch / "modules"
    kept = "virtio*.ko libcrc32c.ko erofs.ko overlay.ko net_failover.ko failover.ko modules.builtin*".split()
    for file in [found for pattern in kept for found in modules.rglob(pattern)]:
        copy = maimed / file.relative_to(modules)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    import_kernel(cli.state_dir)
    (before,) = cli.json("kernel", "list")
    refused = cli.run("kernel", "import", image, maimed, status=3, timeout=400)
    assert "is not taken over" in refused.stderr and "libcrc32c.ko: No such file" in refused.stderr
    # What was there is still used.
    assert cli.json("kernel", "list") == [before]


# Accounts and store paths


def test_accounts(cli):
    assert cli.json("account", "add", "team-a") == {"name": "team-a", "created": True}
    assert cli.json("account", "add", "team-a")["created"] is False
    assert [account["name"] for account in cli.json("account", "list")] == ["default", "team-a"]
    cli.run("account", "add", "No Name", status=1)
    assert cli.json("--account", "team-a", "path", "list") == []
    cli.run("account", "remove", "team-a")
    cli.run("account", "remove", "team-a", status=4)
    cli.run("account", "remove", "default", status=1)
    cli.run("--account", "team-a", "path", "list", status=4)


def copy_to(cli, client, *paths):
    environment = {**client.environment(), "NIXBUILD_STATE_DIR": str(cli.state_dir)}
    store = f"ssh://localhost?remote-program={peers.program('nixbuild-serve')}"
    words = ["nix", "copy", "--to", store, *paths]
    subprocess.run(words, env=environment, check=True, capture_output=True, timeout=120)


def test_paths(cli, client, tree, scratch):
    (scratch / "second").write_text("second")
    first, second = client.run("nix-store", "--add", tree, scratch / "second").stdout.split()
    copy_to(cli, client, first, second)

    listed = cli.json("path", "list")
    assert sorted(info["path"] for info in listed) == sorted([first, second])
    info = cli.json("path", "info", "--closure-size", first)[0]
    known = json.loads(client.run("nix", "path-info", "--json", first).stdout)[0]
    for name in ("narHash", "narSize", "references", "ca"):
        assert info[name] == known[name]
    assert info["closureSize"] == info["narSize"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", info["registered"])
    base = os.path.basename(first)
    assert cli.run("path", "info", base).stdout == cli.run("path", "info", base[:32]).stdout

    assert [entry["name"] for entry in cli.json("path", "list", first)] == ["bin", "data", "link"]
    assert cli.run("path", "cat", f"{first}/data", text=False).stdout == (tree / "data").read_bytes()
    archive = subprocess.run(["nix-store", "--dump", tree], stdout=subprocess.PIPE).stdout
    assert cli.run("path", "cat", "--nar", first, text=False).stdout == archive
    cli.run("path", "cat", f"{first}/none", status=4)
    cli.run("path", "cat", first, status=1)
    missing = "/nix/store/" + "0" * 32 + "-none"
    cli.run("path", "info", missing, status=4)
    cli.run("path", "cat", missing, status=4)

    assert cli.json("path", "verify") == {"checked": 2, "findings": []}
    assert cli.json("gc", "--older-than", "1h")["pathsRemoved"] == 0
    done = cli.json("gc", "--keep", first)
    assert done["pathsRemoved"] == 1
    assert [info["path"] for info in cli.json("path", "list")] == [first]
    cli.run("account", "remove", "default", "--force", status=1)


def test_a_full_store_refuses_uploads(cli, client, tree):
    path = client.run("nix-store", "--add", tree).stdout.strip()
    cli.run("settings", "set", "max-store-bytes", "200KiB")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        copy_to(cli, client, path)
    assert b"the store of account 'default' is full" in refused.value.stderr
    assert cli.json("path", "list") == []
    cli.run("settings", "set", "max-store-bytes", "1MiB")
    copy_to(cli, client, path)
    assert [info["path"] for info in cli.json("path", "list")] == [path]


def test_verify_finds_damage(cli, client, tree):
    (path,) = client.run("nix-store", "--add", tree).stdout.split()
    copy_to(cli, client, path)
    data = max(cli.state_dir.glob("store/segments/*/*.data"), key=lambda file: file.stat().st_size)
    data.chmod(0o644)
    with open(data, "r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes([byte[0] ^ 1]))
    done = cli.run("path", "verify", "--json", status=1)
    (finding,) = json.loads(done.stdout)["findings"]
    assert finding["path"] == path
    assert finding["code"] == "store.nar-hash"
    assert path in cli.run("path", "verify", path, status=1).stdout


# Builds


def drv_file(client, small, tag, **more):
    return client.real(small.instantiate(client, tag, **more))


def upload_inputs(admin, client, small, tag, **more):
    """Derivation file of a build whose input has been uploaded."""
    drv = small.instantiate(client, tag, **more)
    inputs = client.run("nix-store", "-q", "--references", drv).stdout.split()
    copy_to(admin, client, *inputs)
    return client.real(drv)


def test_run_names_a_missing_input(cli, client, small):
    drv = drv_file(client, small, "missing")
    done = cli.run("run", drv, status=4)
    assert re.search(r"the input /nix/store/\S+-bb is not in the store of account 'default'", done.stderr)
    assert "nix copy --to" in done.stderr
    cli.run("run", "nowhere.drv", status=4)
    cli.run("run", "/etc/passwd", status=1)
    cli.run("--account", "nobody", "run", drv, status=3)


def test_run_and_look_at_the_build(admin, client, small):
    drv = upload_inputs(admin, client, small, "run", body="echo made > $out")
    done = admin.run("run", drv)
    assert "log-line-for-run" in done.stderr
    path = done.stdout.strip()
    assert path.endswith("-small-run")
    assert admin.run("path", "cat", path).stdout == "made\n"

    build = next(b for b in admin.json("builds") if b["derivation"].endswith("-small-run.drv"))
    assert build["status"] == "Built"
    assert build["accelerator"] in ("kvm", "tcg")
    assert build["stopped"] > build["started"]
    number = str(build["id"])
    assert "log-line-for-run" in admin.run("log", number).stdout
    assert admin.run("log", "--follow", number).stdout == admin.run("log", number).stdout
    # By the derivation, and by what came out.
    for name in (f"/nix/store/{drv.name}", path, path.removeprefix("/nix/store/")):
        assert admin.json("builds", name)["id"] == build["id"]
        assert admin.run("log", name).stdout == admin.run("log", number).stdout
    assert [output["path"] for output in build["outputs"]] == [path]
    admin.run("log", "/nix/store/00000000000000000000000000000000-nothing", status=4)
    admin.run("log", "neither", status=2)
    attached = admin.run("attach", number)
    assert attached.stdout == admin.run("log", number).stdout
    assert f"build {number}: Built after" in attached.stderr
    usage = admin.json("usage")[0]
    assert usage["account"] == "default" and usage["builds"] >= 1 and usage["storedBytes"] > 0
    assert usage["days"][-1]["day"] in admin.run("usage").stdout
    shown = admin.run("builds", number).stdout
    assert drv.name in shown
    assert admin.json("builds", number)["id"] == build["id"]
    admin.run("builds", "999999", status=4)
    admin.run("log", "999999", status=4)

    again = admin.json("run", drv)
    assert (again["success"], again["outputs"]) == (True, {"out": path})


def test_run_a_failing_build(admin, client, small):
    drv = upload_inputs(admin, client, small, "failing", body="echo why it failed >&2; exit 3")
    done = admin.run("run", "--json", drv, status=1)
    told = json.loads(done.stdout)
    assert (told["success"], told["status"], told["outputs"]) == (False, "PermanentFailure", {})
    assert "exit code 3" in told["error"]
    assert "why it failed" in done.stderr
    assert admin.json("builds", "--failed")[0]["derivation"] == drv.name


def test_run_with_a_timeout(admin, client, small):
    drv = upload_inputs(admin, client, small, "timeout", body="sleep 1000")
    done = admin.run("run", "--timeout", "3", drv, status=5)
    assert "TimedOut" in done.stderr


def test_follow_a_running_build_and_leave(admin, client, small):
    drv = upload_inputs(admin, client, small, "follow", body="for i in 1 2 3 4 5 6; do echo tick-$i >&2; sleep 1; done; echo > $out")
    running = subprocess.Popen(admin.command("run", drv), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        builds = []
        while not builds and time.monotonic() < deadline:
            builds = admin.json("builds", "--running")
            time.sleep(0.2)
        number = str(builds[0]["id"])
        # One who leaves in the middle disturbs nobody.
        attached = subprocess.Popen(admin.command("attach", number), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        left = subprocess.Popen(admin.command("log", "--follow", number), stdout=subprocess.PIPE)
        assert left.stdout.read(1)
        left.send_signal(signal.SIGINT)
        left.wait(10)
        followed = admin.run("log", "--follow", number).stdout
        assert [line for line in followed.split() if line.startswith("tick")] == [f"tick-{i}" for i in range(1, 7)]
        assert running.wait(60) == 0
        out, end = attached.communicate(timeout=60)
        assert [line for line in out.split() if line.startswith("tick")] == [f"tick-{i}" for i in range(1, 7)]
        assert attached.returncode == 0 and f"build {number}: Built" in end
    finally:
        running.kill()
        running.wait()


def test_drain_holds_builds_back(admin, client, small):
    drv = upload_inputs(admin, client, small, "drained", body="echo > $out")
    assert "no more builds are started" in admin.run("drain", "--wait").stdout
    try:
        held = subprocess.Popen(admin.command("run", drv), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        builds = []
        while not builds and time.monotonic() < deadline:
            builds = admin.json("builds", "--running")
            time.sleep(0.2)
        assert builds[0]["status"] == "waiting"
        assert "drain" in admin.run("why", str(builds[0]["id"])).stdout
    finally:
        admin.run("undrain")
    assert held.wait(120) == 0


def test_sigterm_waits_for_a_running_build(cli, client, small, scratch):
    import_kernel(cli.state_dir)
    configuration = scratch / "nixbuild.toml"
    configuration.write_text("[sandbox]\nallow-emulation = true\n[daemon]\nstop-wait-seconds = 100\n")
    words = [peers.program("nixbuildd"), "--state-dir", cli.state_dir, "--config", configuration, "--foreground"]
    daemon = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not (cli.state_dir / "daemon.sock").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        drv = upload_inputs(cli, client, small, "outlives", body="echo begun >&2; sleep 4; echo > $out")
        running = subprocess.Popen(cli.command("run", drv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while "begun" not in running.stderr.readline():
            assert running.poll() is None
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0
        running.communicate(timeout=10)
        assert cli.json("builds")[0]["status"] == "Built"
    finally:
        daemon.kill()
        daemon.wait()


# Over SSH


def test_over_ssh(server, admin, client, small):
    upload_inputs(admin, client, small, "ssh")

    def status(*words):
        return server.ssh(*words).returncode

    listed = json.loads(server.ssh("nixbuild", "path", "list", "--json").stdout)
    assert {info["path"] for info in listed} == {info["path"] for info in admin.json("path", "list")}
    assert json.loads(server.ssh("nixbuild", "account", "list", "--json").stdout)[0]["name"] == "default"
    assert len(json.loads(server.ssh("nixbuild", "account", "list", "--json").stdout)) == 1
    assert status("nixbuild", "builds") == 0
    assert status("nixbuild", "--help") == 0
    assert status("nixbuild", "path", "verify") == 0
    for refused in ("account add x", "account remove x", "gc", "doctor", "kernel list", "builds --account x"):
        assert status("nixbuild", *refused.split()) == 3, refused
    assert status("nixbuild", "frobnicate") == 2
    # The forms of nixbuild.net.
    shell = server.ssh("shell", input=b"path list --json\nfrobnicate\nbuilds --json\n")
    assert shell.returncode == 0
    first, second = shell.stdout.splitlines()
    assert {info["path"] for info in json.loads(first)} == {info["path"] for info in listed}
    assert isinstance(json.loads(second), list)
    assert b"nixbuild> " in shell.stderr and b"frobnicate" in shell.stderr
    assert json.loads(server.ssh("api", "path", "list").stdout) == listed
    missing = server.ssh("api", "builds", "999999")
    assert missing.returncode == 4
    assert json.loads(missing.stdout)["error"]["code"] == "admin.no-build"
    assert status("nixbuild", "log", "999999") == 4
