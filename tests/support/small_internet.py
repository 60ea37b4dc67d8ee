"""A small internet for one daemon: two network namespaces, joined by a cable.

In the outer one lives this program: a web server at a public and at a private address, and a name
server. The daemon's one has the outer as its default route and knows nothing else. Nothing of the
host's own network is touched, and all is gone with the two processes that hold the namespaces.
"""

import http.server
import socket
import socketserver
import struct
import subprocess
import sys
import threading

DAEMON = "100.1.1.1"
PUBLIC = "100.1.1.2"
PRIVATE = "10.9.9.9"
NAME = "files.example.org"
PAGE = b"what was asked for\n"
PORT = 80


class Files(http.server.BaseHTTPRequestHandler):
    """/file is a file, /moved leads to it, by name."""

    def do_GET(self):
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", f"http://{NAME}/file")
            self.end_headers()
        elif self.path == "/file":
            self.send_response(200)
            self.send_header("Content-Length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE)
        else:
            self.send_error(404)

    def log_message(self, *_):
        pass


class Names(socketserver.BaseRequestHandler):
    """Knows one name; everything else does not exist."""

    def handle(self):
        query, reply = self.request
        end = query.index(b"\0", 12)
        labels, at = [], 12
        while at < end:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        (kind,) = struct.unpack(">H", query[end + 1 : end + 3])
        known = ".".join(labels).lower() == NAME
        answers = 1 if known and kind == 1 else 0
        answer = query[:2] + struct.pack(">HHHHH", 0x8180 if known else 0x8183, 1, answers, 0, 0)
        answer += query[12 : end + 5]
        if answers:
            answer += b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(PUBLIC)
        reply.sendto(answer, self.client_address)


def in_namespace(pid, *command):
    subprocess.run(["nsenter", "-t", str(pid), "--net", *command], check=True, timeout=20)


class SmallInternet:
    """`wrap(command)` gives a command that runs in the daemon's namespace once `join(pid)` is called."""

    def __init__(self, scratch):
        self.resolver = scratch / "resolv.conf"
        self.resolver.write_text(f"nameserver {PUBLIC}\n")
        self.outer = None
        self.inner = None

    def __enter__(self):
        self.outer = self._hold("python3", __file__, "serve")
        self.inner = self._hold("python3", __file__, "own")
        outer, inner = str(self.outer.pid), str(self.inner.pid)
        in_namespace(inner, "ip", "link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", outer)
        for pid, device, addresses in (
            (inner, "up0", [f"{DAEMON}/24"]),
            (outer, "down0", [f"{PUBLIC}/24", f"{PRIVATE}/32"]),
        ):
            in_namespace(pid, "ip", "link", "set", "lo", "up")
            for address in addresses:
                in_namespace(pid, "ip", "addr", "add", address, "dev", device)
            in_namespace(pid, "ip", "link", "set", device, "up")
        in_namespace(inner, "ip", "route", "add", "default", "via", PUBLIC)
        for process in (self.outer, self.inner):
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"serving\n"
        return self

    def __exit__(self, *_):
        for process in (self.outer, self.inner):
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()

    def _hold(self, *command):
        process = subprocess.Popen(
            ["unshare", "--net", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout.readline() == b"here\n"
        return process

    def wrap(self, command):
        """A command line that runs `command` in the daemon's place, with its resolver."""
        script = f'mount --bind {self.resolver} /etc/resolv.conf && exec "$@"'
        return [
            "nsenter", "-t", str(self.inner.pid), "--net",
            "unshare", "--mount", "sh", "-c", script, "sh", *command,
        ]  # fmt: skip


def possible():
    """Whether this user may make namespaces with cables here."""
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "ip", "link", "add", "type", "veth"], stderr=subprocess.DEVNULL
    )
    return probe.returncode == 0


def main():
    """Holds a namespace: says so, waits for its cable, then serves in it."""
    print("here", flush=True)
    sys.stdin.readline()
    servers = [http.server.ThreadingHTTPServer(("0.0.0.0", PORT), Files)]
    if sys.argv[1] == "serve":
        servers.append(socketserver.ThreadingUDPServer((PUBLIC, 53), Names))
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("serving", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
