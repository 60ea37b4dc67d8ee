"""Random conversations with a Nix server: what is asked, and what an answer says, field by field.

A step is a function of a session that asks for one thing and returns what came back as plain values.
The same steps go to two servers whose stores have seen the same steps before. Decoding here is
independent of the project's own codecs.
"""

import base64
import hashlib

import serve_wire
import worker_wire
from serve_wire import number, text, texts

STORE = "/nix/store"
DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"


def nix32(data):
    bits = int.from_bytes(data, "little")
    return "".join(DIGITS[(bits >> (5 * i)) & 31] for i in reversed(range((len(data) * 8 + 4) // 5)))


def sha256(data):
    return hashlib.sha256(data).digest()


def store_path(kind, digest, name):
    """The path of `kind` (`source:…`, `text:…`, `output:out`) with an inner digest."""
    fingerprint = f"{kind}:sha256:{digest}:{STORE}:{name}".encode()
    folded = bytearray(20)
    for i, byte in enumerate(sha256(fingerprint)):
        folded[i % 20] ^= byte
    return f"{STORE}/{nix32(bytes(folded))}-{name}"


def nar_node(tree):
    """bytes: a file, ("x", bytes): an executable, str: a link, dict: a folder."""
    if isinstance(tree, str):
        return text("(") + text("type") + text("symlink") + text("target") + text(tree) + text(")")
    if isinstance(tree, dict):
        entries = b"".join(
            text("entry") + text("(") + text("name") + text(name) + text("node") + nar_node(tree[name]) + text(")")
            for name in sorted(tree)
        )
        return text("(") + text("type") + text("directory") + entries + text(")")
    executable, data = (text("executable") + text(""), tree[1]) if isinstance(tree, tuple) else (b"", tree)
    return text("(") + text("type") + text("regular") + executable + text("contents") + text(data) + text(")")


def nar_of(tree):
    return text("nix-archive-1") + nar_node(tree)


class World:
    """Objects and paths that one seed knows. Nothing of it depends on what a server answers."""

    def __init__(self, random):
        self.random = random
        self.count = 0
        self.objects = {}  # path: (NAR, references)
        self.derivations = []

    def tree(self, depth=2):
        r = self.random
        choice = r.randrange(8 if depth else 6)
        if choice < 3:
            return r.randbytes(r.choice([0, 1, 7, 8, 9, 100, 5000]))
        if choice == 3:
            return ("x", r.randbytes(r.randrange(50)))
        if choice == 4:
            return r.choice(["target", "/nix/store/elsewhere", "../a/b", "x" * 300])
        names = ["a", "b", "zz", "A", "name with blanks", "file.txt", "é"]
        return {name: self.tree(max(depth - 1, 0)) for name in r.sample(names, r.randrange(5))}

    def name(self):
        self.count += 1
        return self.random.choice(["n", "a-name", "x.y_z+1", "pkg-1.0", "q?=1"]) + f"-{self.count}"

    def unknown(self, name="nowhere"):
        return f"{STORE}/{''.join(self.random.choices(DIGITS, k=32))}-{name}"

    def some(self, most=6):
        """Paths, of which most were added once."""
        known = list(self.objects)
        chosen = self.random.sample(known, min(len(known), self.random.randrange(most)))
        return chosen + [self.unknown() for _ in range(self.random.randrange(2))]

    def one(self):
        known = list(self.objects)
        return self.random.choice(known) if known and self.random.random() < 0.85 else self.unknown()

    def references(self):
        known = list(self.objects)
        return sorted(self.random.sample(known, min(len(known), self.random.randrange(4))))

    def new_object(self):
        """(path, NAR, references): a new path under a name of no meaning, now and then with itself."""
        path = self.unknown(self.name())
        references = self.references()
        if self.random.random() < 0.2:
            references = sorted([*references, path])
        nar = nar_of(self.tree())
        return path, nar, references

    def derivation(self):
        """(path, text) of a derivation that needs nothing, with an output that is right for it."""
        r, name = self.random, self.name()
        variables = {"name": name, "system": "x86_64-linux", "builder": "/bin/sh", "some": r.choice(["", 'q"\\\n\t', "v"])}
        digest = ""
        if r.random() < 0.5:
            digest = sha256(r.randbytes(8)).hex()
            inner = sha256(f"fixed:out:sha256:{digest}:".encode()).hex()
            method = "sha256"
        else:
            method = ""
            inner = sha256(aterm("", "", "", {**variables, "out": ""}).encode()).hex()
        out = store_path("output:out", inner, name)
        body = aterm(out, method, digest, {**variables, "out": out})
        path = store_path("text", sha256(body.encode()).hex(), name + ".drv")
        self.derivations.append((path, out))
        return path, name + ".drv", body


def aterm(out, method, digest, variables):
    def quoted(value):
        for char, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
            value = value.replace(char, escape)
        return f'"{value}"'

    pairs = ",".join(f"({quoted(key)},{quoted(variables[key])})" for key in sorted(variables))
    return (
        f'Derive([("out","{out}","{method}","{digest}")],[],[],"x86_64-linux","/bin/sh",'
        f'["-c","true"],[{pairs}])'
    )


def spoiled(random, nar, digest, references, world):
    """What AddToStoreNar is told: mostly the truth. (kind, digest, size, references)"""
    kind = random.choice(["good"] * 7 + ["hash", "reference", "size"])
    size = len(nar)
    if kind == "hash":
        digest = sha256(b"another").hex()
    elif kind == "reference":
        references = sorted([*references, world.unknown()])
    elif kind == "size":
        size -= 8  # with more than there is, both wait for the rest, Nix for ever
    return kind, digest, size, references


# --- serve -----------------------------------------------------------------------------------------


class ServeSession(worker_wire.Stream):
    """The serve protocol in any version."""

    def __init__(self, command, minor, **more):
        super().__init__(command, stderr=worker_wire.subprocess.DEVNULL, **more)
        self.send(number(serve_wire.CLIENT_MAGIC), number(2 << 8 | minor))
        assert self.number() == serve_wire.SERVER_MAGIC
        self.minor = min(minor, self.number() & 0xFF)

    def infos(self):
        found = []
        while path := self.text():
            entry = [path, self.text(), self.texts(), self.number(), self.number()]
            if self.minor >= 4:
                entry += [self.text(), self.text(), sorted(self.texts())]
            found.append(entry)
        return sorted(found)


def ask(request, read):
    def step(session):
        session.send(request)
        return read(session)

    step.request = request
    return step


def serve_export(objects):
    parts = b"".join(
        number(1) + nar + number(0x4558494E) + text(path) + texts(references) + text("") + number(0)
        for path, nar, references in objects
    )
    return parts + number(0)


def read_export(session):
    found = []
    while session.number() == 1:
        nar = session.nar()
        assert session.number() == 0x4558494E
        found.append((session.text(), hashlib.sha256(nar).hexdigest(), session.texts(), session.text()))
        session.number()
    return found


def serve_steps(world, minor):
    """The steps of one session."""
    r = world.random
    for _ in range(r.randrange(3, 12)):
        kind = r.choice(["valid", "infos", "dump", "import", "export", "closure", "ensure"] + ["add"] * (5 if minor >= 5 else 0))
        if kind == "valid":
            asked = number(1) + number(r.randrange(2)) + number(r.randrange(2)) + texts(world.some())
            yield kind, ask(asked, lambda s: s.texts())
        elif kind == "infos":
            yield kind, ask(number(2) + texts(world.some()), lambda s: s.infos())
        elif kind == "dump":
            yield kind, ask(number(3) + text(world.one()), lambda s: hashlib.sha256(s.nar()).hexdigest())
        elif kind == "import":
            objects = [world.new_object() for _ in range(r.randrange(3))]
            yield kind, ask(number(4) + serve_export(objects), lambda s: s.number())
            world.objects.update({path: (nar, references) for path, nar, references in objects})
        elif kind == "export":
            yield kind, ask(number(5) + number(0) + texts(world.some(4)), read_export)
        elif kind == "closure":
            yield kind, ask(number(7) + number(r.randrange(2)) + texts(world.some(4)), lambda s: s.texts())
        elif kind == "ensure":
            options = number(0) * (2 + (minor >= 2) + 2 * (minor >= 3) + (minor >= 7))
            yield kind, ask(number(6) + texts([world.one()]) + options, read_outcome)
        else:
            yield kind, add_to_store_nar(world)


def read_outcome(session):
    status = session.number()
    return "built" if status == 0 else ("failed", bool(session.text()))


def add_to_store_nar(world):
    r = world.random
    path, nar, references = world.new_object()
    if world.objects and r.random() < 0.15:
        path = r.choice(list(world.objects))
    kind, digest, size, told = spoiled(r, nar, sha256(nar).hex(), references, world)
    if kind == "good":
        world.objects[path] = (nar, references)
    signatures = ["k:" + base64.b64encode(bytes(64)).decode()] if r.random() < 0.2 else []
    asked = number(9) + text(path) + text("") + text(digest) + texts(told) + number(0) + number(size)
    asked += number(r.randrange(2)) + texts(signatures) + text("") + nar
    return ask(asked, lambda s: s.number())


# --- worker ----------------------------------------------------------------------------------------


def operation(code, payload=b"", read=lambda s: None, pulled=b""):
    def step(session):
        session.send(number(code), payload)
        session.listen(pulled)
        return read(session)

    step.request = number(code) + payload
    return step


def truth(session):
    return session.number() != 0


def add_nar(world, minor):
    r = world.random
    path, nar, references = world.new_object()
    kind, digest, size, told = spoiled(r, nar, sha256(nar).hex(), references, world)
    if minor < 23 and kind != "good":
        return None  # the stream's position is lost with an error
    if kind == "good":
        world.objects[path] = (nar, references)
    asked = text(path) + text("") + text(digest) + texts(told) + number(0) + number(size)
    asked += number(r.randrange(2)) + texts([]) + text("") + number(0) + number(1)
    if minor >= 23:
        return operation(39, asked + worker_wire.framed(nar, r.choice([1, 100, 40000])))
    if minor >= 21:
        return operation(39, asked, pulled=nar)
    return operation(39, asked + nar)


def add_to_store(world, minor):
    r, name = world.random, world.name()
    method = r.choice(["fixed:r:sha256", "fixed:sha256", "text:sha256", "fixed:r:sha1", "fixed:sha512"])
    tree = r.randbytes(r.randrange(200)) if "r:" not in method else world.tree()
    if minor >= 25:
        data = nar_of(tree) if "r:" in method else tree
        references = [] if method == "fixed:sha256" or "sha1" in method or "sha512" in method else world.references()
        asked = text(name) + text(method) + texts(references) + number(0) + worker_wire.framed(data, 77)
        return operation(7, asked, lambda s: (s.text(), s.path_info()))
    recursive, algorithm = r.randrange(2), r.choice(["sha256", "sha1"])
    odd = 0 if recursive and algorithm == "sha256" else 1
    tree = world.tree() if recursive else r.randbytes(33)
    asked = text(name) + number(odd) + number(recursive) + text(algorithm) + nar_of(tree)
    return operation(7, asked, lambda s: s.text())


def add_multiple(world):
    r = world.random
    parts, objects = [], [world.new_object() for _ in range(r.randrange(4))]
    for path, nar, references in objects:
        world.objects[path] = (nar, references)
        parts.append(text(path) + text("") + text(sha256(nar).hex()) + texts(references) + number(0))
        parts.append(number(len(nar)) + number(0) + texts([]) + text("") + nar)
    stream = number(len(objects)) + b"".join(parts)
    return operation(44, number(0) + number(1) + worker_wire.framed(stream, r.choice([8, 1000, 60000])))


def output_map(session):
    return [(session.text(), session.text()) for _ in range(session.number())]


def substitutable(session):
    return [session.text() for _ in range(session.number())]


def worker_steps(world, minor):
    r = world.random
    plain = ["is", "referrers", "all", "info", "hash part", "valid", "derivers", "ensure", "root", "nar",
             "missing", "sign", "sync", "substitutable", "verify", "outputs", "names", "deriver"]  # fmt: skip
    adding = ["add nar"] * 4 + ["add"] * 3 + ["add text", "add drv"] + (["add many"] * 2 if minor >= 32 else [])
    if r.random() < 0.7:
        settings = number(0) * 3 + number(r.randrange(8)) + number(2) + number(0) + number(1) + number(0) * 3
        yield "options", operation(19, settings + number(1) + number(1) + (texts([]) if minor >= 12 else b""))
    for _ in range(r.randrange(4, 16)):
        kind = r.choice(plain + adding)
        step = worker_step(world, minor, kind)
        if step:
            yield kind, step


def worker_step(world, minor, kind):  # noqa: PLR0911, PLR0912
    r = world.random
    drv, out = r.choice(world.derivations) if world.derivations else (world.unknown("x.drv"), "")
    if kind == "is":
        return operation(1, text(world.one()), truth)
    if kind == "referrers":
        return operation(6, text(world.one()), lambda s: s.texts())
    if kind == "all":
        return operation(23, b"", lambda s: s.texts())
    if kind == "info":
        return operation(26, text(world.one()), lambda s: s.path_info() if s.number() else None)
    if kind == "hash part":
        return operation(29, text(world.one()[11:43]), lambda s: s.text())
    if kind == "valid":
        return operation(31, texts(world.some()) + (number(0) if minor >= 27 else b""), lambda s: s.texts())
    if kind == "derivers":
        return operation(33, text(out or world.one()), lambda s: s.texts())
    if kind == "deriver":
        return operation(18, text(world.one()), lambda s: s.text())
    if kind == "ensure":
        return operation(10, text(world.one()), truth)
    if kind == "root":
        return operation(11, text(world.one()), truth)
    if kind == "sync":
        return operation(13, b"", truth)
    if kind == "nar":
        return operation(38, text(world.one()), lambda s: hashlib.sha256(s.nar()).hexdigest())
    if kind == "missing" and minor < 19:
        return None  # no client asks so early
    if kind == "missing":
        asked = [f"{drv}!out" if r.random() < 0.5 else world.one() for _ in range(r.randrange(4))]
        return operation(40, texts(asked), lambda s: (s.texts(), s.texts(), s.texts(), s.number(), s.number()))
    if kind == "sign":
        signature = f"key-{r.randrange(3)}:" + base64.b64encode(bytes([r.randrange(4)]) * 64).decode()
        return operation(37, text(world.one()) + texts([signature]), truth)
    if kind == "substitutable":
        return operation(32, texts(world.some()), substitutable)
    if kind == "verify":
        return operation(35, number(0) + number(0), truth)
    if kind == "outputs":
        code, read = (41, output_map) if minor >= 22 else (22, lambda s: s.texts())
        return operation(code, text(drv), read)
    if kind == "names":
        return operation(28, text(drv), lambda s: s.texts())
    if kind == "add nar":
        return add_nar(world, minor)
    if kind == "add":
        return add_to_store(world, minor)
    if kind == "add many":
        return add_multiple(world)
    if kind == "add text":
        contents = text(r.randbytes(r.randrange(60)))
        return operation(8, text(world.name()) + contents + texts(world.references()), lambda s: s.text())
    path, name, body = world.derivation()
    world.objects[path] = (nar_of(body.encode()), [])
    return operation(8, text(name) + text(body) + texts([]), lambda s: s.text())
