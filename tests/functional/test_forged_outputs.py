"""Derivations that claim outputs which are not theirs, by every door of both protocols."""

import conftest
import pytest

import paper
import worker_wire
from random_sessions import ServeSession, aterm, ask, nar_of, operation, serve_export, sha256, store_path, truth
from serve_wire import number, text, texts

pytestmark = pytest.mark.skipif(conftest.SERVER != "nixbuild", reason="is about what our server lets in")

INPUT_REJECTED = 4


class Drv:
    """A derivation without inputs; `out` is what it calls its output, when that is another one than it has."""

    def __init__(self, name, out=None, digest="", **variables):
        variables = {"name": name, "paperContents": name, **variables}
        method = "sha256" if digest else ""
        inner = f"fixed:out:sha256:{digest}:" if digest else aterm("", "", "", {**variables, "out": ""})
        self.right = store_path("output:out", sha256(inner.encode()).hex(), name)
        self.out = out or self.right
        self.variables = {**variables, "out": self.out}
        self.text = aterm(self.out, method, digest, self.variables)
        self.path = store_path("text", sha256(self.text.encode()).hex(), name + ".drv")
        self.name, self.method, self.digest = name, method, digest
        self.nar = nar_of(self.text.encode())

    def basic(self, path=None):
        """As BuildDerivation has it."""
        words = number(1) + text("out") + text(self.out) + text(self.method) + text(self.digest)
        words += texts([]) + text("x86_64-linux") + text("/bin/sh") + texts(["-c", "true"])
        pairs = sorted(self.variables.items())
        return text(path or self.path) + words + number(len(pairs)) + b"".join(text(a) + text(b) for a, b in pairs)

    def info(self):
        return text("") + text(sha256(self.nar).hex()) + texts([]) + number(0) + number(len(self.nar)) + number(0) + texts([]) + text("")


DOORS = {
    "AddToStore": lambda d: operation(
        7, text(d.name + ".drv") + text("text:sha256") + texts([]) + number(0) + worker_wire.framed(d.text.encode()),
        lambda s: (s.text(), s.path_info()),
    ),
    "AddTextToStore": lambda d: operation(8, text(d.name + ".drv") + text(d.text) + texts([]), lambda s: s.text()),
    "AddToStoreNar": lambda d: operation(
        39, text(d.path) + d.info() + number(0) + number(1) + worker_wire.framed(d.nar)
    ),
    "AddMultipleToStore": lambda d: operation(
        44, number(0) + number(1) + worker_wire.framed(number(1) + text(d.path) + d.info() + d.nar)
    ),
    "serve AddToStoreNar": lambda d: ask(number(9) + text(d.path) + d.info() + d.nar, lambda s: s.number()),
    "serve ImportPaths": lambda d: ask(
        number(4) + serve_export([(d.path, d.nar, [])]), lambda s: s.number()
    ),
}  # fmt: skip


class World:
    def __init__(self, scratch):
        self.server = paper.Paper(scratch)
        conftest.import_kernel(self.server.state)

    def session(self, door):
        if door.startswith("serve"):
            return ServeSession(self.server.command("nixbuild-serve", "--serve", "--write"), 7)
        return self.worker()

    def worker(self):
        command = self.server.command("nixbuild-serve", "--stdio")
        return worker_wire.Session(command, 35, stderr=worker_wire.subprocess.DEVNULL)

    def through(self, door, drv):
        """What a session of its own is told."""
        session = self.session(door)
        try:
            DOORS[door](drv)(session)
            return "taken"
        except worker_wire.Refused as refused:
            return str(refused)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return "ended"
        finally:
            session.process.stdin.close()
            session.process.stdout.close()
            session.process.wait(60)

    def valid(self, *paths):
        session = self.worker()
        found = operation(31, texts(sorted(paths)) + number(0), lambda s: s.texts())(session)
        session.end()
        return found

    def signatures(self, path):
        session = self.worker()
        info = operation(26, text(path), lambda s: s.path_info() if s.number() else None)(session)
        session.end()
        return info[5]

    def build(self, drv, worker=True, path=None):
        """(status, message) of BuildDerivation."""
        if worker:
            session = self.worker()
            answer = operation(36, drv.basic(path) + number(0), lambda s: (s.number(), s.text()))(session)
        else:
            session = ServeSession(self.server.command("nixbuild-serve", "--serve", "--write"), 7)
            answer = ask(number(8) + drv.basic(path) + number(0) * 6, lambda s: (s.number(), s.text()))(session)
        session.process.stdin.close()
        session.process.stdout.close()
        session.process.wait(60)
        return answer


@pytest.fixture(scope="module")
def world(module_scratch):
    made = World(module_scratch)
    yield made
    made.server.end()


@pytest.mark.parametrize("door", DOORS)
def test_no_door_lets_a_forged_file_in(world, door):
    tag = door.replace(" ", "-")
    victim = Drv("victim-" + tag)
    forged = {
        "another's output": Drv("forged-" + tag, out=victim.out),
        "another fixed output": Drv("fixed-" + tag, out=victim.out, digest="ab" * 32),
        "another hash than the path's": Drv("hash-" + tag, out=Drv("hash-" + tag, digest="cd" * 32).out, digest="ab" * 32),
    }
    for what, drv in forged.items():
        said = world.through(door, drv)
        if door.startswith("serve"):
            assert said == "ended", what
        else:
            assert f"has incorrect output path '{drv.out}', should be '{drv.right}'" in said, what
        assert world.valid(drv.path) == [], what
    honest = [victim, Drv("fixed-" + tag, digest="ab" * 32)]
    for drv in honest:
        assert world.through(door, drv) == "taken"
    assert sorted(world.valid(*(drv.path for drv in honest))) == sorted(drv.path for drv in honest)


@pytest.mark.parametrize("worker", [True, False])
def test_a_forged_build_is_refused_where_that_can_be_computed(world, worker):
    tag = "worker" if worker else "serve"
    victim = Drv("target-" + tag)
    for drv in (Drv("thief-" + tag, out=victim.out), Drv("thief-fixed-" + tag, out=victim.out, digest="ab" * 32)):
        status, message = world.build(drv, worker)
        assert status == INPUT_REJECTED and f"should be '{drv.right}'" in message
    # The file is there, and says something else than what is sent under its name.
    assert world.through("AddTextToStore", victim) == "taken"
    for drv in (Drv("target-" + tag, out=victim.out, word="evil"), Drv("target-" + tag, out=paper.path_of("else", "else"))):
        status, message = world.build(drv, worker, path=victim.path)
        assert status == INPUT_REJECTED and victim.path in message, message
    assert world.valid(victim.out) == []
    assert world.build(victim, worker)[0] == paper.BUILT
    assert len(world.signatures(victim.out)) == 1


def test_what_cannot_be_computed_is_built_and_not_signed(world):
    """As a hook sends it: what its inputs came out as stands among the sources, and nothing behind them."""
    claimed = Drv("claimed", out=paper.path_of("claimed", "claimed"))
    assert world.build(claimed, path=paper.path_of("unknown", "claimed.drv"))[0] == paper.BUILT
    assert world.valid(claimed.out) == [claimed.out]
    assert world.signatures(claimed.out) == []


def test_a_whole_closure_comes_in_any_batch(world):
    """What is behind a derivation may come with it."""
    session = world.worker()
    drvs = [Drv(f"many-{i}") for i in range(300)]
    stream = number(len(drvs)) + b"".join(text(drv.path) + drv.info() + drv.nar for drv in drvs)
    operation(44, number(0) + number(1) + worker_wire.framed(stream))(session)
    assert operation(31, texts(sorted(drv.path for drv in drvs)) + number(0), lambda s: len(s.texts()))(session) == 300
    assert operation(9, texts([f"{drvs[0].path}!out"]) + number(0), truth)(session)
    session.end()
    assert len(world.signatures(drvs[0].out)) == 1
