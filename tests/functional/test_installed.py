"""Installed, not from the build folder: `meson install`, an ordinary user, a real sshd that checks what it checks
by default, and what README's sections "Use it" and "Keys and accounts" say. All of it in a mount namespace, so that
/usr/local, /home and /etc of this machine stay as they are.
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
import time

import conftest
import peers
import pytest

pytestmark = [
    pytest.mark.skipif(conftest.SERVER != "nixbuild", reason="about our programs"),
    pytest.mark.skipif(os.getuid() != 0, reason="installs as root"),
]
USER = "builder"
READY = "everything is in place"


def free_uid():
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    return next(uid for uid in range(2000, 60000) if uid not in taken and not processes_of(uid))


def processes_of(uid):
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.stat(f"/proc/{entry}").st_uid == uid:
                found.append(int(entry))
        except OSError:
            continue
    return found


class Installed(peers.Sshd):
    """A machine of its own as far as files go: the programs in /usr/local, a user, a kernel in /boot."""

    def __init__(self, scratch):
        super().__init__(scratch)
        self.user, self.uid = USER, free_uid()
        self.strict = "yes"
        self.kernel = peers.prepare("kernel")
        self.holder = None

    def install(self):
        subprocess.run(
            ["meson", "install", "-C", peers.BUILD, "--no-rebuild", "--quiet", "--destdir", self.scratch / "installed"],
            check=True, timeout=120,
        )  # fmt: skip
        return self.scratch / "installed/usr/local"

    def make_place(self):
        for name, line in (("passwd", f"{USER}:x:{self.uid}:{self.uid}::/home/{USER}:/bin/sh"), ("group", f"{USER}:x:{self.uid}:")):
            lines = open(f"/etc/{name}").read() + line + "\n"
            (self.folder / name).write_text(lines)
        script = f"""set -e
            mount --make-rprivate /
            mount --bind {self.install()} /usr/local
            mount --bind {self.folder}/passwd /etc/passwd; mount --bind {self.folder}/group /etc/group
            mount --bind {self.kernel}/boot /boot; mount --bind {self.kernel}/lib/modules /lib/modules
            mount -t tmpfs -o mode=755 home /home
            mkdir -p /home/{USER}/.ssh; chmod 700 /home/{USER}/.ssh; chown -R {self.uid}:{self.uid} /home/{USER}
            echo "{READY}"; exec sleep infinity"""
        os.makedirs("/lib/modules", exist_ok=True)
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        assert self.holder.stdout.readline().strip() == READY
        self.prefix = ["nsenter", "--mount", f"--target={self.holder.pid}", "--"]

    def as_user(self, *words, check=True, **more):
        """What the user types on the server."""
        command = [*self.prefix, "setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", "env", "-i",
                   f"HOME=/home/{USER}", f"USER={USER}", "PATH=/usr/local/bin:/usr/bin:/bin", *words]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, **more)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def let_in(self, key):
        """README's line."""
        line = f'restrict,pty,command="nixbuild-serve --account default" {key.read_text()}'
        self.as_user("sh", "-c", "umask 077; cat >> ~/.ssh/authorized_keys", input=line)

    def _who_may_come_in(self, force):
        return (
            f"Match User {USER}\nAuthorizedKeysCommand /usr/local/bin/nixbuild keys-for %u %t %k\n"
            f"AuthorizedKeysCommandUser {USER}\nAcceptEnv NIXBUILD_* NIXBUILDNET_*\n"
        )

    def start(self):
        self.make_place()
        super().start()
        self.let_in(self.folder / "clientkey.pub")
        return self

    def stop(self):
        self._end_sshd()
        for patience in (5, 5):
            for pid in processes_of(self.uid):
                os.kill(pid, signal.SIGTERM if patience else signal.SIGKILL)
            deadline = time.monotonic() + patience
            while processes_of(self.uid) and time.monotonic() < deadline:
                time.sleep(0.1)
        if self.holder:
            self.keep_record()
            self.holder.kill()
            self.holder.wait()

    def keep_record(self):
        """The database for whoever counts machines: the home goes with its namespace."""
        for name in ("metadata.sqlite", "metadata.sqlite-wal", "daemon.log"):
            held = f"/proc/{self.holder.pid}/root/home/{USER}/.local/state/nixbuild/{name}"
            if os.path.exists(held):
                shutil.copy(held, self.state_dir)


@pytest.fixture(scope="module")
def installed(module_scratch):
    server = Installed(module_scratch)
    try:
        yield server.start()
    finally:
        server.stop()
        conftest.keep_log(server)


def test_the_doctor_finds_everything(installed):
    done = installed.as_user("nixbuild", "doctor", "--json", check=False)
    checks = {check["check"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0, checks
    assert all(check["level"] != "error" for check in checks.values()), checks


def test_a_build_by_hook(installed, small, module_scratch):
    client = peers.Client(module_scratch, "2.8.0", name="hook", sshd=installed)
    done = small.build_remotely(client, installed, "installed")
    twin = peers.Client(module_scratch, "2.8.0", name="twin")
    native = twin.run("nix-build", *small.arguments("installed"), "--no-out-link").stdout.strip()
    assert done.stdout.strip() == native and client.path_info(native) == twin.path_info(native)
    assert "log-line-for-installed" in done.stderr
    told = json.loads(installed.ssh("nixbuild", "builds", "--json").stdout)
    assert [build["status"] for build in told] == ["Built"]
    log = installed.ssh("nixbuild", "log", str(told[0]["id"])).stdout.decode()
    assert "log-line-for-installed" in log


def test_a_build_in_the_store(installed, small, module_scratch):
    client = peers.Client(module_scratch, "2.26.3", name="store", sshd=installed, scheme="ssh-ng")
    words = small.arguments("in-the-store")
    path = client.run("nix-build", *words, "--no-out-link", "--store", client.remote).stdout.strip()
    assert client.run("nix", "path-info", "--store", client.remote, path).stdout.strip() == path


def test_everything_runs_as_the_user(installed):
    """Daemon and machines belong to the user that people log in as; nothing of theirs is root's."""
    names = {open(f"/proc/{pid}/comm").read().strip() for pid in processes_of(installed.uid)}
    assert "nixbuildd" in names
    state = f"/proc/{installed.holder.pid}/root/home/{USER}/.local/state/nixbuild"
    assert os.stat(state).st_uid == installed.uid


def test_a_key_of_an_account(installed, small, module_scratch):
    """README's "Keys and accounts": sshd asks the program, which knows the account of a key."""
    installed.as_user("nixbuild", "account", "add", "team-a")
    key = module_scratch / "alice"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "alice", "-f", key], check=True)
    installed.as_user(
        "sh", "-c", "cat > ~/alice.pub && nixbuild --account team-a key add --expires 90d ~/alice.pub",
        input=key.with_suffix(".pub").read_text(),
    )  # fmt: skip
    own = installed.key
    theirs = [word if word != str(own) else str(key) for word in installed.options().split()]
    ask = ["ssh", *theirs, f"{USER}@{installed.host}", "--", "nixbuild"]
    told = subprocess.run([*ask, "builds", "--json"], capture_output=True, timeout=60)
    assert told.returncode == 0 and json.loads(told.stdout) == [], told.stderr
    ours = json.loads(installed.ssh("nixbuild", "builds", "--json").stdout)
    assert len(ours) == 2
    paths = subprocess.run([*ask, "path", "list", "--json"], capture_output=True, timeout=60)
    assert json.loads(paths.stdout) == []
