"""A small client of the worker protocol, for what no Nix can be made to send: any version, any request."""

import select
import struct
import subprocess

from serve_wire import number, text, texts

CLIENT_MAGIC, SERVER_MAGIC = 0x6E697863, 0x6478696F
NEXT, READ, WRITE, LAST, ERROR = 0x6F6C6D67, 0x64617461, 0x64617416, 0x616C7473, 0x63787470
ANSWER_SECONDS = 20
START_ACTIVITY, STOP_ACTIVITY, RESULT = 0x53545254, 0x53544F50, 0x52534C54


class Refused(Exception):
    """STDERR_ERROR: the operation has no reply."""


class Lost(Exception):
    """What came is no message."""


class Stream:
    """What a server process answers, with a client's way of reading it."""

    def __init__(self, command, **more):
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, **more
        )

    def send(self, *parts):
        data = memoryview(b"".join(parts))
        while data:
            data = data[self.process.stdin.write(data) :]

    def read(self, size):
        parts = bytearray()
        while len(parts) < size:
            if not select.select([self.process.stdout], [], [], ANSWER_SECONDS)[0]:
                raise TimeoutError(f"no answer within {ANSWER_SECONDS} s")
            got = self.process.stdout.read(size - len(parts))
            if not got:
                raise EOFError
            parts += got
        return bytes(parts)

    def number(self):
        return struct.unpack("<Q", self.read(8))[0]

    def bytes(self):
        size = self.number()
        data = self.read(size + -size % 8)
        return data[:size]

    def text(self):
        return self.bytes().decode()

    def texts(self):
        return [self.text() for _ in range(self.number())]

    def nar(self):
        """One archive from the stream, found by parsing it."""
        out = bytearray()

        def word():
            size = self.number()
            data = self.read(size + -size % 8)
            out.extend(number(size) + data)
            return data[:size]

        def node():
            assert word() == b"("
            assert word() == b"type"
            kind = word()
            if kind == b"symlink":
                assert word() == b"target"
                word()
                assert word() == b")"
            elif kind == b"regular":
                tag = word()
                if tag == b"executable":
                    word()
                    tag = word()
                if tag == b"contents":
                    word()
                    tag = word()
                assert tag == b")"
            else:
                assert kind == b"directory", kind
                while (tag := word()) == b"entry":
                    for _ in range(3):  # "(" "name" NAME
                        word()
                    assert word() == b"node"
                    node()
                    assert word() == b")"
                assert tag == b")"

        assert word() == b"nix-archive-1"
        node()
        return bytes(out)

    def end(self, timeout=60):
        """Ends the session as a client does; the server's exit status."""
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(timeout)


class Session(Stream):
    """One session; `minor` is what the client announces."""

    def __init__(self, command, minor=35, features=(), **more):
        super().__init__(command, **more)
        self.send(number(CLIENT_MAGIC))
        assert self.number() == SERVER_MAGIC
        self.server_minor = self.number() & 0xFF
        self.minor = min(minor, self.server_minor)
        self.send(number(1 << 8 | minor))
        if self.minor >= 38:
            self.send(texts(list(features)))
            self.features = self.texts()
        self.send(number(0), number(0))
        if self.minor >= 33:
            self.text()
        if self.minor >= 35:
            self.trust = self.number()
        self.listen()

    def listen(self, pulled=b""):
        """Until the operation has succeeded; what the server wants to read comes from `pulled`."""
        while True:
            message = self.number()
            if message == LAST:
                return
            if message == NEXT or message == WRITE:
                self.text()
            elif message == READ:
                size = self.number()
                self.send(text(pulled[:size]))
                pulled = pulled[size:]
            elif message == START_ACTIVITY:
                self.number(), self.number(), self.number(), self.text(), self._fields(), self.number()
            elif message == STOP_ACTIVITY:
                self.number()
            elif message == RESULT:
                self.number(), self.number(), self._fields()
            elif message == ERROR:
                raise Refused(self._error())
            else:
                raise Lost(f"no message begins with {message:#x}")

    def _fields(self):
        for _ in range(self.number()):
            if self.number():
                self.text()
            else:
                self.number()

    def _error(self):
        if self.minor < 26:
            message = self.text()
            self.number()
            return message
        self.text(), self.number(), self.text()
        message = self.text()
        self.number()
        for _ in range(self.number()):
            self.number(), self.text()
        return message

    def path_info(self):
        """Without the time of registration, which is each server's own; signatures are a set."""
        deriver, digest, references = self.text(), self.text(), self.texts()
        self.number()
        return deriver, digest, references, self.number(), self.number(), sorted(self.texts()), self.text()


def framed(data, size=1000):
    """A framed stream with frames of `size` bytes."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(number(len(piece)) + piece for piece in pieces) + number(0)
