"""A small client of the serve protocol, for what no Nix can be made to send: huge or broken streams."""

import fcntl
import hashlib
import subprocess
import struct

CLIENT_MAGIC, SERVER_MAGIC = 0x390C9DEB, 0x5452EECB
VERSION = 2 << 8 | 7
QUERY_VALID_PATHS, QUERY_PATH_INFOS, DUMP_STORE_PATH = 1, 2, 3
BUILD_DERIVATION, ADD_TO_STORE_NAR = 8, 9
PIPE_SIZE = 1 << 20


def number(value):
    return struct.pack("<Q", value)


def text(value):
    data = value.encode() if isinstance(value, str) else value
    return number(len(data)) + data + bytes(-len(data) % 8)


def texts(values):
    return number(len(values)) + b"".join(text(value) for value in values)


class Session:
    """One session with a server started as `command`, over pipes."""

    def __init__(self, command, **more):
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            **more,
        )
        for end in (self.process.stdin, self.process.stdout):
            fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self.send(number(CLIENT_MAGIC), number(VERSION))
        assert self.number() == SERVER_MAGIC
        self.version = self.number()

    def send(self, *parts):
        data = memoryview(b"".join(parts))
        while data:
            data = data[self.process.stdin.write(data) :]

    def read(self, size):
        parts = bytearray()
        while len(parts) < size:
            got = self.process.stdout.read(min(size - len(parts), PIPE_SIZE))
            if not got:
                raise EOFError(self.process.stderr.read().decode(errors="replace"))
            parts += got
        return bytes(parts)

    def number(self):
        return struct.unpack("<Q", self.read(8))[0]

    def text(self):
        size = self.number()
        data = self.read(size + -size % 8)
        return data[:size].decode()

    def texts(self):
        return [self.text() for _ in range(self.number())]

    def valid(self, *paths):
        self.send(number(QUERY_VALID_PATHS), number(0), number(0), texts(paths))
        return self.texts()

    def infos(self, *paths):
        """{path: (deriver, references, NAR size, NAR hash)}"""
        self.send(number(QUERY_PATH_INFOS), texts(paths))
        found = {}
        while path := self.text():
            deriver, references = self.text(), self.texts()
            self.number()
            size, nar_hash = self.number(), self.text()
            self.text(), self.texts()
            found[path] = (deriver, references, size, nar_hash)
        return found

    def begin_add(self, path, size, digest, references=()):
        self.send(
            number(ADD_TO_STORE_NAR), text(path), text(""), text(digest), texts(list(references)),
            number(0), number(size), number(0), texts([]), text(""),
        )  # fmt: skip

    def add(self, path, chunks, size, digest, references=()):
        self.begin_add(path, size, digest, references)
        for chunk in chunks:
            self.send(chunk)
        assert self.number() == 1

    def dump(self, path, size):
        """The SHA-256 of the path's NAR, read as a stream of `size` bytes."""
        self.send(number(DUMP_STORE_PATH), text(path))
        digest, left = hashlib.sha256(), size
        while left:
            got = self.process.stdout.read(min(left, PIPE_SIZE))
            assert got, "the stream ended early"
            digest.update(got)
            left -= len(got)
        return digest.hexdigest()

    def build(self, drv_path, outputs, inputs, platform, builder, arguments, environment):
        """(status, message) of BuildDerivation; outputs are {name: path}."""
        options = number(0) * 6
        self.send(
            number(BUILD_DERIVATION), text(drv_path), number(len(outputs)),
            *(text(part) for name, path in outputs.items() for part in (name, path, "", "")),
            texts(inputs), text(platform), text(builder), texts(arguments), number(len(environment)),
            *(text(part) for pair in sorted(environment.items()) for part in pair), options,
        )  # fmt: skip
        status, message = self.number(), self.text()
        for _ in range(4):
            self.number()
        for _ in range(self.number()):
            self.text(), self.text()
        return status, message

    def close(self):
        """Ends the session as a client does; its exit status and what it said on stderr."""
        self.process.stdin.close()
        said = self.process.stderr.read().decode(errors="replace")
        self.process.stdout.close()
        return self.process.wait(60), said

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for end in (self.process.stdin, self.process.stdout):
            end.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stderr.close()


def store_path(letter, name):
    return f"/nix/store/{letter * 32}-{name}"


OPEN = text("nix-archive-1") + text("(") + text("type")


def big_file_nar(size):
    """The NAR of one file, in pieces: one block of odd bytes again and again, numbered."""
    block = hashlib.shake_128(b"a big file").digest((1 << 20) - 8)
    yield OPEN + text("regular") + text("contents") + number(size)
    for position in range(0, size, 1 << 20):
        piece = number(position) + block
        yield piece[: min(len(piece), size - position)]
    yield bytes(-size % 8) + text(")")


def many_files_nar(folders, files):
    """The NAR of folders x files small files; every tenth executable, every hundredth a link."""
    directory = text("(") + text("type") + text("directory")
    yield OPEN + text("directory")
    for folder in range(folders):
        parts = [text("entry"), text("("), text("name"), text(f"folder-{folder:04}"), text("node"), directory]
        for file in range(files):
            parts += [text("entry"), text("("), text("name"), text(f"file-{file:05}"), text("node"), text("(")]
            parts += [text("type")]
            if file % 100 == 99:
                parts += [text("symlink"), text("target"), text(f"file-{file - 1:05}")]
            else:
                parts += [text("regular")]
                parts += [text("executable"), text("")] if file % 10 == 0 else []
                parts += [text("contents"), text(f"contents of file {file} in folder {folder}\n" * (file % 7))]
            parts += [text(")"), text(")")]
        parts += [text(")"), text(")")]
        yield b"".join(parts)
    yield text(")")


def measure(chunks):
    """(size, hex SHA-256) of a stream."""
    size, digest = 0, hashlib.sha256()
    for chunk in chunks:
        size += len(chunk)
        digest.update(chunk)
    return size, digest.hexdigest()
