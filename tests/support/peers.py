"""Real peers for tests: Nix clients of several versions, a real sshd on loopback, our programs behind it.

Everything lives in a scratch folder given by the caller, and only processes that were started from
here (or by something started from here) are ended.
"""

import base64
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
REPOSITORY = SUPPORT.parent.parent
BUILD = Path(os.environ.get("NIXBUILD_TEST_BUILD_DIR", REPOSITORY / "build"))
CACHE = Path(os.environ.get("NIXBUILD_TEST_CACHE_DIR", BUILD / "test-cache"))
VERSIONS = ("2.8.0", "2.26.3")
SCHEMES = ("ssh", "ssh-ng")
TAG_VARIABLE = "NIXBUILD_TEST_TAG"


def prepare(what):
    """The folder of `what` (see tests/support/prepare), fetched on first use."""
    done = subprocess.run(
        [SUPPORT / "prepare", CACHE, what], check=True, stdout=subprocess.PIPE, text=True, timeout=600
    )
    return Path(done.stdout.strip())


def program(name):
    """One of our programs in the build folder."""
    return BUILD / "tools" / name / name


def busybox_folder(scratch):
    """A folder with a static busybox as bin/busybox and bin/sh: the smallest builder there is."""
    folder = Path(scratch) / "bb"
    if not folder.exists():
        (folder / "bin").mkdir(parents=True)
        shutil.copy(shutil.which("busybox"), folder / "bin/busybox")
        (folder / "bin/sh").symlink_to("busybox")
    return folder


def loose_program(scratch, name):
    """A folder with a program of this host and all its libraries; bin/NAME runs it anywhere."""
    folder = Path(scratch) / f"loose-{name}"
    if not folder.exists():
        (folder / "lib").mkdir(parents=True)
        (folder / "bin").mkdir()
        binary = shutil.which(name)
        listed = subprocess.run(["ldd", binary], check=True, stdout=subprocess.PIPE, text=True).stdout
        for word in listed.split():
            if word.startswith("/"):
                shutil.copy(word, folder / "lib")
        shutil.copy(binary, folder / "lib" / name)
        wrapper = folder / "bin" / name
        wrapper.write_text(
            '#!/bin/sh\nhere="${0%/*}/../lib"\n'
            f'exec "$here"/ld-linux-*.so.* --library-path "$here" "$here/{name}" "$@"\n'
        )
        wrapper.chmod(0o755)
    return folder


def loose_nix(scratch, version):
    """The same for a Nix under its names for the store: what a builder calls that talks to one."""
    folder = Path(scratch) / f"loose-nix-{version}"
    if not folder.exists():
        nix = prepare(f"nix-{version}")
        binary = nix / "bin/nix"
        (folder / "bin").mkdir(parents=True)
        if (nix / "lib").is_dir():
            shutil.copytree(nix / "lib", folder / "lib")
        else:
            (folder / "lib").mkdir()
            listed = subprocess.run(["ldd", binary], check=True, stdout=subprocess.PIPE, text=True).stdout
            for word in listed.split():
                if word.startswith("/"):
                    shutil.copy(word, folder / "lib")
        shutil.copy(binary, folder / "lib/nix")
        for name in ("nix", "nix-build", "nix-store", "nix-instantiate"):
            wrapper = folder / "bin" / name
            wrapper.write_text(
                '#!/bin/sh\nhere="${0%/*}/../lib"\n'
                f'exec "$here"/ld-linux-*.so.* --argv0 {name} --library-path "$here" "$here/nix" "$@"\n'
            )
            wrapper.chmod(0o755)
    return folder


class Client:
    """One Nix of one version with a store, a configuration and a home of its own."""

    def __init__(self, scratch, version="2.8.0", name="client", sshd=None, scheme="ssh", experimental=""):
        self.version = version
        self.scheme = scheme
        self.nix = prepare(f"nix-{version}")
        self.scratch = Path(scratch)
        self.root = self.scratch / "stores" / name
        self.home = self.scratch / "home" / name
        self.conf = self.scratch / "conf" / name
        self.sshd = sshd
        for folder in (self.root, self.home, self.conf):
            folder.mkdir(parents=True, exist_ok=True)
        busybox = shutil.which("busybox")
        (self.conf / "nix.conf").write_text(
            "build-users-group =\n"
            "sandbox = true\n"
            f"sandbox-paths = /bin/sh={busybox}\n"
            "substitute = false\n"
            "substituters =\n"
            f"experimental-features = nix-command flakes {experimental}\n"
            "require-sigs = false\n"
        )

    def environment(self):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("NIX_", "XDG_"))}
        kept.update(
            PATH=f"{self.nix}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            HOME=str(self.home),
            XDG_CACHE_HOME=str(self.home / "cache"),
            NIX_CONF_DIR=str(self.conf),
            NIX_BIN_DIR=str(self.nix / "bin"),
            NIX_REMOTE=f"local?root={self.root}",
        )
        if self.sshd:
            kept["NIX_SSHOPTS"] = self.sshd.options()
        return kept

    def run(self, *arguments, check=True, timeout=300, **more):
        """Runs one command of this Nix; output as text, stdout and stderr apart."""
        more.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(
            [str(a) for a in arguments],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=timeout,
            **more,
        )
        if check and done.returncode != 0:
            words = " ".join(str(a) for a in arguments)
            raise AssertionError(
                f"'{words}' ended with {done.returncode}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
            )
        return done

    @property
    def remote(self):
        """The server's store as this client names it."""
        return self.sshd.uri(self.scheme)

    def real(self, store_path):
        """Where a store path's file really lies."""
        return Path(f"{self.root}{store_path}")

    def path_info(self, *paths):
        """{path: (NAR hash, NAR size, references, deriver)} as this Nix's own database has them."""
        found = {}
        for path in paths:
            query = lambda *what: self.run("nix-store", "-q", *what, path).stdout.split()
            found[path] = (
                query("--hash")[0],
                query("--size")[0],
                sorted(query("--references")),
                query("--deriver")[0],
            )
        return found


def find_processes(needle):
    """{pid: command words} of processes whose command line or environment holds `needle`."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes()
            surroundings = Path(f"/proc/{entry}/environ").read_bytes()
        except OSError:
            continue
        if words and (needle.encode() in words or needle.encode() in surroundings):
            found[int(entry)] = words.decode(errors="replace").split("\0")
    return found


def children_of(pids):
    """The given processes and all their descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            parents[int(entry)] = int(stat.rsplit(")", 1)[1].split()[1])
    family = set(pids)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        family |= more
        grown = bool(more)
    return family - {os.getpid()}


def end_family(needle, patience=10):
    """Ends what carries `needle`, and its descendants: politely first."""
    deadline = time.monotonic() + patience
    asked = set()
    while True:
        family = children_of(find_processes(needle))
        if not family:
            return
        late = time.monotonic() > deadline
        for pid in family:
            if late or pid not in asked:
                try:
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
                except ProcessLookupError:
                    pass
                asked.add(pid)
        if time.monotonic() > deadline + patience:
            raise RuntimeError(f"processes would not end: {sorted(family)}")
        time.sleep(0.1)


class Sshd:
    """A real sshd on a free loopback port whose only command is the server under test.

    `server` is "nixbuild" (our program), or a Nix version: then that Nix serves, which shows that a
    test asks nothing of us that Nix itself does not do.
    """

    def __init__(self, scratch, server="nixbuild", account=None, config=None, keys_command=None):
        self.scratch = Path(scratch)
        # Called by sshd for every login (AuthorizedKeysCommand); nothing else says who may come in.
        self.keys_command = keys_command
        self.server = server
        self.account = account
        self.config = config
        self.folder = self.scratch / "sshd"
        self.state_dir = self.scratch / "state"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state_dir.mkdir(exist_ok=True)
        self.tag = uuid.uuid4().hex
        self.user = getpass.getuser()
        self.host = "127.0.0.1"
        self.strict = "no"  # a scratch folder is not where sshd wants to find keys
        self.prefix = []  # what starts it elsewhere
        self.process = None

    # What a client needs to know.
    @property
    def key(self):
        return self.folder / "clientkey"

    def uri(self, scheme="ssh"):
        return f"{scheme}://{self.user}@{self.host}"

    def options(self):
        return (
            f"-F none -p {self.port} -i {self.key} -o BatchMode=yes -o IdentitiesOnly=yes "
            f"-o UserKnownHostsFile={self.folder}/known_hosts"
        )

    def builders(self, slots=2, systems="x86_64-linux", features="-", scheme="ssh"):
        host_key = base64.b64encode((self.folder / "hostkey.pub").read_bytes()).decode()
        return f"{self.uri(scheme)} {systems} {self.key} {slots} 1 {features} - {host_key}"

    def ssh(self, *words, options=(), **more):
        """Runs a command over plain ssh, as a person would."""
        command = ["ssh", *self.options().split(), *options, f"{self.user}@{self.host}", "--", *words]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120, **more)

    # The server's side.
    def _server_lines(self):
        if self.server == "nixbuild":
            serve = f"{program('nixbuild-serve')} --state-dir {self.state_dir}"
            if self.config:
                serve += f" --config {self.config}"
            if self.account:
                serve += f" --account {self.account}"
            return f"exec {serve}\n"
        peer = Client(self.scratch, self.server, name="server")
        lines = "".join(
            f"export {name}='{value}'\n"
            for name, value in peer.environment().items()
            if name.startswith(("NIX_", "XDG_", "HOME", "PATH"))
        )
        return lines + (
            'case "$SSH_ORIGINAL_COMMAND" in\n'
            "  *nix-store*--serve*) exec nix-store --serve --write ;;\n"
            "  *nix-daemon*--stdio*) exec nix-daemon --stdio ;;\n"
            '  *) echo "unexpected command: $SSH_ORIGINAL_COMMAND" >&2; exit 64 ;;\n'
            "esac\n"
        )

    def start(self):
        for name in ("hostkey", "clientkey"):
            if not (self.folder / name).exists():
                subprocess.run(
                    ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", self.folder / name],
                    check=True,
                )
        shutil.copy(self.folder / "clientkey.pub", self.folder / "authorized_keys")
        os.chmod(self.folder / "authorized_keys", 0o600)
        force = self.folder / "force.sh"
        force.write_text(f"#!/bin/bash\nexport {TAG_VARIABLE}={self.tag}\n{self._server_lines()}")
        force.chmod(0o755)
        if os.getuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)
        for _ in range(5):
            if self._try_start(force):
                return self
        raise RuntimeError(f"sshd did not start:\n{(self.folder / 'sshd.log').read_text()}")

    def _who_may_come_in(self, force):
        if self.keys_command:
            return (
                f"AuthorizedKeysFile none\nAuthorizedKeysCommand {self.keys_command} %u %t %k\n"
                f"AuthorizedKeysCommandUser {self.user}\nAcceptEnv NIXBUILD_* NIXBUILDNET_*\n"
            )
        return f"AuthorizedKeysFile {self.folder}/authorized_keys\nForceCommand {force}\n"

    def _try_start(self, force):
        with socket.socket() as probe:
            probe.bind((self.host, 0))
            self.port = probe.getsockname()[1]
        host_key = " ".join((self.folder / "hostkey.pub").read_text().split()[:2])
        # With and without the port: clients that are told the host key look it up by name alone.
        (self.folder / "known_hosts").write_text(f"[{self.host}]:{self.port} {host_key}\n")
        (self.folder / "sshd.conf").write_text(
            f"Port {self.port}\nListenAddress {self.host}\n"
            f"HostKey {self.folder}/hostkey\nPidFile {self.folder}/sshd.pid\n"
            f"StrictModes {self.strict}\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "PermitRootLogin prohibit-password\nAllowTcpForwarding no\nX11Forwarding no\nPermitTTY yes\n"
            "MaxStartups 100\nMaxSessions 100\n"
            + self._who_may_come_in(force)
        )
        with open(self.folder / "sshd.log", "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, "/usr/sbin/sshd", "-D", "-e", "-f", self.folder / "sshd.conf"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection((self.host, self.port), 1).close()
                return True
            except OSError:
                time.sleep(0.05)
        self._end_sshd()
        return False

    def _end_sshd(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def stop(self):
        self._end_sshd()
        end_family(self.tag)
        end_family(str(self.state_dir))

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def daemon_pid(self):
        """The daemon of this server's state directory, nothing when none runs."""
        for pid, words in find_processes(str(self.state_dir)).items():
            if os.path.basename(words[0]) == "nixbuildd":
                return pid
        return None


def resident_peak_mib(pid):
    """The largest resident size that a process has had so far, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no VmHWM of process {pid}")
