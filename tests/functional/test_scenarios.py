"""What users type, by each Nix through each door: one function a scenario (conftest.py says which pairs run when).

The machines are on paper (tests/support/paper.py): what is shown here is what a client does and is told.
Builders that really run are in test_clients.py and test_remote_store.py. NIXBUILD_TEST_SERVER=2.8.0 puts
that Nix in our place.
"""

import json
import os
import signal
import stat
import subprocess
import time
import uuid
from concurrent import futures

import conftest
import paper
import peers
import pytest
from conftest import HERE, SERVER, wait_until


class Bench:
    """One client, the server, and words that both scenarios and people use."""

    def __init__(self, scratch, server, small, version, scheme):
        self.scratch, self.server, self.small = scratch, server, small
        self.version, self.scheme = version, scheme
        self.client = self.another()
        self.remote = self.client.remote
        self.tag = ""

    @property
    def old(self):
        return self.version == "2.8.0"

    def another(self, **more):
        """A Nix of the same version with a store of its own."""
        return peers.Client(
            self.scratch, self.version, name=f"c-{uuid.uuid4().hex[:8]}", sshd=self.server, scheme=self.scheme, **more
        )

    def file(self, **arguments):
        words = [HERE / "scenarios.nix", "--argstr", "tag", self.tag, "--argstr", "bb", self.small.bb]
        for name, value in arguments.items():
            words += ["--arg" if isinstance(value, int) else "--argstr", name, str(value)]
        return words

    def drv(self, attribute, client=None, **arguments):
        return (client or self.client).run("nix-instantiate", *self.file(**arguments), "-A", attribute).stdout.split()[0]

    def outputs(self, drv, client=None):
        return (client or self.client).run("nix-store", "-q", "--outputs", drv).stdout.split()

    def hook(self, *attributes, client=None, check=True, extra=(), builders=None, **arguments):
        """`nix-build` that lets the server build."""
        words = [word for attribute in attributes for word in ("-A", attribute)]
        builders = builders or self.server.builders(8, features="big-parallel", scheme=self.scheme)
        return (client or self.client).run(
            "nix-build", *self.file(**arguments), *words, "--no-out-link", "-j0", "--builders", builders, *extra, check=check,
        )  # fmt: skip

    def store(self, *words, **more):
        """`nix-store` about the server's store."""
        return self.client.run("nix-store", "--store", self.remote, *words, **more)

    def local(self, attribute="one", client=None, **arguments):
        """Something that was built here."""
        return (client or self.client).run(
            "nix-build", *self.file(**arguments), "-A", attribute, "--no-out-link"
        ).stdout.split()[0]  # fmt: skip

    def copy_to(self, *paths, client=None, extra=()):
        return (client or self.client).run("nix", "copy", *extra, "--to", self.remote, *paths)

    def copy_from(self, *paths, client=None, check=True, extra=("--no-check-sigs",)):
        return (client or self.client).run("nix", "copy", *extra, "--from", self.remote, *paths, check=check)

    def key(self, name):
        """A file with a new secret key."""
        file = self.scratch / f"{name}-{self.tag}"
        file.write_text(self.client.run("nix", "key", "generate-secret", "--key-name", name).stdout)
        return file

    def sign_there(self, name):
        """Something in the server's store, signed there."""
        path = self.local()
        self.copy_to(path)
        self.client.run("nix", "store", "sign", "--store", self.remote, "-k", self.key(name), path)
        return path

    def signers(self, path, **more):
        return [signature.split(":")[0] for signature in self.info(path, **more).get("signatures", [])]

    def info(self, path, *words, store=True, client=None):
        where = ["--store", self.remote] if store else []
        told = json.loads((client or self.client).run("nix", "path-info", "--json", *where, *words, path).stdout)
        return (told if isinstance(told, list) else [{"path": key, **value} for key, value in told.items()])[0]


SCENARIOS = []


def scenario(function):
    SCENARIOS.append(function)
    return function


def worker_scenario(function):
    """What the serve protocol has no words for."""
    SCENARIOS.append(pytest.param(function, marks=pytest.mark.doors("ssh-ng")))
    return function


# --- building by hook --------------------------------------------------------------------------------


@scenario
def build_one(b):
    done = b.hook("one")
    assert b.client.real(done.stdout.strip()).read_text() == f"made-{b.tag}"
    assert "paper line 0" in done.stderr


@scenario
def build_two_at_once(b):
    assert len(b.hook("one", "two").stdout.split()) == 2


@scenario
def build_again_builds_nothing(b):
    first = b.hook("one")
    second = b.hook("one")
    assert first.stdout == second.stdout
    assert "paper line" not in second.stderr


@scenario
def the_waterfall_of_a_build(b):
    """From the connection to the outputs on their way back."""
    b.hook("sourced")
    if SERVER != "nixbuild":
        return

    def steps():
        build = next(build for build in json.loads(b.server.nixbuild("builds", "--json")) if b.tag in build["derivation"])
        return json.loads(b.server.nixbuild("why", str(build["id"]), "--json"))["waterfall"]

    wait_until(lambda: "send" in [step["name"] for step in steps()], 30)  # noted when the session is over
    names = [step["name"] for step in steps()]
    assert names[:4] == ["connect", "query", "upload", "queue"] and names[-1] == "send", names
    begins = [step["beginMicroseconds"] for step in steps()]
    assert begins[0] == 0 and begins[2:] == sorted(begins[2:]), steps()
    assert all(step["endMicroseconds"] >= step["beginMicroseconds"] for step in steps())


@scenario
def another_client_gets_the_same_result(b):
    first = b.hook("one")
    second = b.hook("one", client=b.another())
    assert first.stdout == second.stdout


@scenario
def two_clients_at_the_same_time(b):
    clients = [b.another(), b.another()]
    with futures.ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda client: b.hook("one", client=client, ms="800"), clients))
    assert done[0].stdout == done[1].stdout
    assert all("paper line 0" in one.stderr for one in done)


@scenario
def a_diamond(b):
    """By hook: each derivation costs the client a connection of its own."""
    done = b.hook("diamond", width=12, ms="0")
    assert b.client.real(done.stdout.strip()).exists()


@scenario
def a_failing_build(b):
    done = b.hook("failing", check=False)
    assert done.returncode != 0
    assert "failed with exit code 3" in done.stderr


@scenario
def a_failure_stops_what_needs_it(b):
    done = b.hook("diamond", width=3, bad=1, check=False)
    assert done.returncode != 0
    assert "dependencies" in done.stderr or "dependency" in done.stderr


@scenario
def keep_going_builds_the_others(b):
    done = b.hook("middles", width=4, bad=1, extra=["--keep-going"], check=False)
    assert done.returncode != 0
    made = [b.client.real(b.outputs(drv)[0]).exists() for drv in middles(b)]
    assert made == [True, False, True, True]


def middles(b):
    return b.client.run("nix-instantiate", *b.file(width=4, bad=1), "-A", "middles").stdout.split()


@scenario
def several_outputs(b):
    done = b.hook("several.all")
    assert len(done.stdout.split()) == 3
    for path in done.stdout.split():
        assert b.client.real(path).exists()


@scenario
def one_of_several_outputs(b):
    assert b.hook("several.lib").stdout.strip().endswith("-lib")


@scenario
def a_fixed_output(b):
    done = b.hook("fixed")
    assert b.client.real(done.stdout.strip()).read_text() == f"made-{b.tag}"


@scenario
def a_wrong_hash(b):
    done = b.hook("wrong", check=False)
    assert done.returncode != 0
    assert "hash mismatch in fixed-output derivation" in done.stderr
    assert "specified:" in done.stderr and "got:" in done.stderr


@scenario
def a_feature_that_is_offered(b):
    assert b.hook("big").stdout.strip()


@scenario
def a_feature_that_is_not_in_the_line(b):
    done = b.hook("big", builders=b.server.builders(8, scheme=b.scheme), check=False)
    assert done.returncode != 0
    assert "big-parallel" in done.stderr


@scenario
def machines_from_a_file(b):
    machines = b.scratch / f"machines-{b.tag}"
    machines.write_text("# ours\n" + b.server.builders(8, scheme=b.scheme) + "\n")
    assert b.hook("one", builders=f"@{machines}").stdout.strip()


@scenario
def two_lines_of_one_machine(b):
    line = b.server.builders(1, scheme=b.scheme)
    assert len(b.hook("one", "two", builders=f"{line} ; {line}").stdout.split()) == 2


@scenario
def import_from_a_derivation(b):
    words = ["--option", "max-jobs", "0", "--builders", b.server.builders(8, scheme=b.scheme)]
    done = b.client.run("nix", "eval", "--impure", "--json", "-f", *b.file(), "value.answer", *words)
    assert done.stdout.strip() == "42"


@scenario
def interrupted(b):
    builders = b.server.builders(8, scheme=b.scheme)
    command = ["nix-build", *b.file(), "-A", "slow", "--no-out-link", "-j0", "--builders", builders]
    process = subprocess.Popen(
        [str(word) for word in command], env=b.client.environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    for line in process.stderr:
        if "paper line 0" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    process.stderr.close()
    assert process.wait(30) != 0
    if SERVER == "nixbuild":
        wait_until(lambda: not b.server.running(f"-scenario-{b.tag}-slow"), 30)


# --- copying -----------------------------------------------------------------------------------------


@scenario
def copy_to_and_from(b):
    path = b.local()
    b.copy_to(path)
    other = b.another()
    b.copy_from(path, client=other)
    assert other.path_info(path)[path][:3] == b.client.path_info(path)[path][:3]


@scenario
def copy_a_closure(b):
    path = b.local("diamond", width=5)
    drv = b.drv("diamond", width=5)
    b.copy_to(drv, extra=["--derivation"])
    b.copy_to(path)
    needed = b.client.run("nix-store", "-q", "--requisites", path).stdout.split()
    told = b.client.run("nix", "path-info", "-r", "--store", b.remote, path)
    assert sorted(needed) == sorted(told.stdout.split())


@scenario
def copy_what_is_there_already(b):
    path = b.local()
    b.copy_to(path)
    assert "copying path" not in b.copy_to(path).stderr


@scenario
def copy_every_kind_of_file(b):
    folder = b.scratch / f"tree-{b.tag}"
    (folder / "empty").mkdir(parents=True)
    (folder / "sub/deep").mkdir(parents=True)
    (folder / "sub/deep/file").write_bytes(os.urandom(70_000))
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    (folder / "nothing").write_text("")
    (folder / "link").symlink_to("sub/deep/file")
    (folder / "dangling").symlink_to("/nowhere/at all")
    path = b.client.run("nix-store", "--add", folder).stdout.strip()
    b.copy_to(path)
    other = b.another()
    b.copy_from(path, client=other)
    real = other.real(path)
    assert (real / "sub/deep/file").read_bytes() == (folder / "sub/deep/file").read_bytes()
    assert os.readlink(real / "dangling") == "/nowhere/at all"
    assert stat.S_IMODE((real / "run").stat().st_mode) == 0o555
    assert (real / "empty").is_dir() and (real / "nothing").read_text() == ""


@scenario
def copy_a_long_chain(b):
    expression = (
        'let chain = n: if n == 0 then builtins.toFile "end" "end" else '
        f'builtins.toFile "link-{b.tag}-${{toString n}}" (chain (n - 1)); in chain 20'
    )
    path = json.loads(b.client.run("nix", "eval", "--json", "--expr", expression).stdout)
    b.copy_to(path)
    told = b.client.run("nix", "path-info", "-r", "--store", b.remote, path).stdout.split()
    assert len(told) == 21
    other = b.another()
    b.copy_from(path, client=other)
    assert len(other.run("nix-store", "-q", "--requisites", path).stdout.split()) == 21


@scenario
def copy_thousands_of_paths(b):
    expression = f'builtins.genList (n: builtins.toFile "many-{b.tag}-${{toString n}}" (toString n)) 1000'
    paths = json.loads(b.client.run("nix", "eval", "--json", "--expr", expression).stdout)
    b.copy_to(*paths)
    assert len(b.client.run("nix", "path-info", "--store", b.remote, *paths).stdout.split()) == 1000


@scenario
def copy_compressed(b):
    path = b.local()
    b.client.run("nix", "copy", "--to", f"{b.remote}?compress=true", path)
    assert b.info(path)["narHash"]


@scenario
def copy_to_a_client_that_wants_signatures(b):
    path = b.local()
    b.copy_to(path)
    careful = b.another()
    conf = careful.conf / "nix.conf"
    conf.write_text(conf.read_text().replace("require-sigs = false", "require-sigs = true"))
    refused = b.copy_from(path, client=careful, check=False, extra=())
    assert refused.returncode != 0
    assert "signature" in refused.stderr


@scenario
def copy_what_somebody_signed(b):
    key = b.key("scenario-1")
    public = b.client.run("nix", "key", "convert-secret-to-public", input=key.read_text(), stdin=None).stdout
    path = b.local()
    b.client.run("nix", "store", "sign", "-k", key, "-r", path)
    b.copy_to(path)
    careful = b.another()
    conf = careful.conf / "nix.conf"
    text = conf.read_text().replace("require-sigs = false", "require-sigs = true")
    conf.write_text(text + f"trusted-public-keys = {public}\n")
    b.copy_from(path, client=careful, extra=())
    assert careful.real(path).exists()
    assert "scenario-1" in b.signers(path)


@scenario
def copy_something_unknown(b):
    missing = "/nix/store/00000000000000000000000000000000-nothing"
    done = b.copy_from(missing, check=False)
    assert done.returncode != 0
    assert "is not valid" in done.stderr or "no substituter" in done.stderr


# --- asking ------------------------------------------------------------------------------------------


@scenario
def ping(b):
    done = b.client.run("nix", "store", "ping" if b.old else "info", "--store", b.remote)
    assert "Store URL: ssh" in done.stdout + done.stderr


@scenario
def path_info_is_the_same_there(b):
    path = b.local()
    b.copy_to(path)
    here, there = b.info(path, store=False), b.info(path)
    for name in ("narHash", "narSize", "references"):
        assert here[name] == there[name]


@scenario
def closure_sizes(b):
    path = b.local("diamond", width=3)
    b.copy_to(path)
    assert b.info(path, "-S")["closureSize"] == b.info(path, "-S", store=False)["closureSize"]


@scenario
def old_questions(b):
    folder = b.scratch / f"asked-{b.tag}"
    folder.mkdir()
    (folder / "file").write_text("text\n")
    path = b.client.run("nix-store", "--add", folder).stdout.strip()
    b.copy_to(path)
    assert b.store("-q", "--hash", path).stdout == b.client.run("nix-store", "-q", "--hash", path).stdout
    assert b.store("-q", "--size", path).stdout == b.client.run("nix-store", "-q", "--size", path).stdout
    assert b.store("-q", "--requisites", path).stdout.split() == [path]
    assert b.store("-q", "--references", path).stdout.split() == []


@worker_scenario  # clients have no access to files over ssh://
def list_and_read_files(b):
    folder = b.scratch / f"read-{b.tag}"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/file").write_text("inside\n")
    path = b.client.run("nix-store", "--add", folder).stdout.strip()
    b.copy_to(path)
    listed = b.client.run("nix", "store", "ls", "-R", "--store", b.remote, path).stdout.split()
    assert sorted(word.strip("./") for word in listed) == ["sub", "sub/file"]
    assert b.client.run("nix", "store", "cat", "--store", b.remote, f"{path}/sub/file").stdout == "inside\n"


@scenario
def dump_an_archive(b):
    path = b.local()
    b.copy_to(path)
    assert f"made-{b.tag}" in b.client.run("nix", "store", "dump-path", "--store", b.remote, path).stdout


@scenario
def verify_there(b):
    path = b.local()
    b.copy_to(path)
    b.client.run("nix", "store", "verify", "--no-trust", "--store", b.remote, path)


# --- the server's store as one's own -----------------------------------------------------------------


@worker_scenario  # clients have no access to files over ssh://
def realise_there(b):
    """The derivation is copied, built there, and the result fetched."""
    drv = b.drv("one")
    b.copy_to(drv, extra=["--derivation"])
    b.store("-r", drv)
    (path,) = b.outputs(drv)
    assert not b.client.real(path).exists()
    b.copy_from(path)
    assert b.client.real(path).read_text() == f"made-{b.tag}"


@worker_scenario  # clients have no access to files over ssh://
def a_failure_there(b):
    drv = b.drv("failing")
    b.copy_to(drv, extra=["--derivation"])
    done = b.store("-r", drv, check=False)
    assert done.returncode != 0
    assert "exit code 3" in done.stderr


@worker_scenario  # ssh:// has no operations for it
def a_hundred_in_a_diamond_there(b):
    words = b.file(width=100, ms="0")
    done = b.client.run("nix-build", *words, "-A", "diamond", "--no-out-link", "--store", b.remote)
    assert not b.client.real(done.stdout.strip()).exists()
    assert b.info(done.stdout.strip())["narSize"] > 0


@worker_scenario  # ssh:// cannot say it
def rebuild_there(b):
    words = ["nix", "build", "--impure", "--no-link", "--store", b.remote, "--eval-store", "auto"]
    b.client.run(*words, "-f", *b.file(), "one")
    again = b.client.run(*words, "-L", "--rebuild", "-f", *b.file(), "one")
    assert "paper line 0" in again.stderr


@worker_scenario  # ssh:// has no QueryMissing
def dry_run(b):
    done = b.client.run("nix-build", "--dry-run", "--store", b.remote, *b.file(width=4), "-A", "diamond")
    assert done.stderr.count(".drv") == 6


@worker_scenario  # ssh:// has no operation for it
def sign_there(b):
    assert "there-1" in b.signers(b.sign_there("there-1"))


@worker_scenario  # ssh:// has no operation for it
def copy_signatures_from_there(b):
    path = b.sign_there("copied-1")
    assert "copied-1" not in b.signers(path, store=False)
    b.client.run("nix", "store", "copy-sigs", "-s", b.remote, path)
    assert "copied-1" in b.signers(path, store=False)


@worker_scenario  # ssh:// has no operation for it
def send_a_log(b):
    b.local()
    drv = b.drv("one")
    done = b.client.run("nix", "store", "copy-log", "--to", b.remote, drv if b.old else f"{drv}^*", check=False)
    if SERVER == "nixbuild":
        assert done.returncode == 0, done.stderr
        assert "paper line 0" in b.server.nixbuild("log", drv)


@worker_scenario  # ssh:// has no operation for it
def delete_there(b):
    path = b.local()
    b.copy_to(path)
    done = b.client.run("nix", "store", "delete", "--store", b.remote, path, check=False)
    if SERVER == "nixbuild":
        assert done.returncode != 0 and "account:write" in done.stderr


# --- doors -------------------------------------------------------------------------------------------


@scenario
def a_program_by_another_name(b):
    """Whatever the client calls, the door is one."""
    name = "remote-program=/opt/nix/bin/" + ("nix-store" if b.scheme == "ssh" else "nix-daemon")
    path = b.local()
    b.client.run("nix", "copy", "--to", f"{b.remote}?{name}", path)
    assert b.info(path)["path"] == path


class PaperServer(peers.Sshd):
    """A real sshd before a daemon whose machines are on paper."""

    def __init__(self, scratch):
        self.paper = paper.Paper(scratch, cpus=16) if SERVER == "nixbuild" else None
        super().__init__(scratch, server=SERVER, config=self.paper and self.paper.config)
        if self.paper:
            conftest.import_kernel(self.state_dir)

    def nixbuild(self, *words):
        done = subprocess.run(
            [peers.program("nixbuild"), "--state-dir", self.state_dir, *words], check=True, capture_output=True, text=True
        )
        return done.stdout

    def running(self, name):
        return [build for build in json.loads(self.nixbuild("builds", "--running", "--json")) if name in build["derivation"]]


@pytest.fixture(scope="module")
def paper_server(module_scratch):
    with PaperServer(module_scratch) as started:
        yield started
        conftest.keep_log(started)


@pytest.fixture(
    scope="module",
    params=conftest.PAIRS,
    ids=lambda pair: "-".join(pair),
)
def bench(request, module_scratch, paper_server, small):
    return Bench(module_scratch, paper_server, small, *request.param)


def test_there_are_enough():
    assert len(SCENARIOS) >= 40


@pytest.mark.parametrize("run", SCENARIOS, ids=lambda function: getattr(function, "__name__", None))
def test_scenario(bench, run):
    bench.tag = f"{run.__name__}-{bench.version}-{bench.scheme}-{time.time_ns() % 10**9}".replace("_", "-")
    run(bench)
