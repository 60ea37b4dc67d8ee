"""nixbuild-builtin as a program: what `builtin:fetchurl` makes of the answers of servers and proxies.

In a machine it is run in the same way (test_derivations, test_fixed_output); here on loopback, against a
server of this file.
"""

import base64
import hashlib
import http.server
import lzma
import os
import socket
import ssl
import subprocess
import threading

import pytest

import peers

BODY = bytes(range(256)) * 1000


def nar_string(contents):
    return len(contents).to_bytes(8, "little") + contents + b"\0" * (-len(contents) % 8)


def nar_of_folder(name, contents):
    words = (b"nix-archive-1", b"(", b"type", b"directory", b"entry", b"(", b"name", name, b"node", b"(", b"type",
             b"regular", b"contents", contents, b")", b")", b")")  # fmt: skip
    return b"".join(map(nar_string, words))


class Answers(http.server.BaseHTTPRequestHandler):
    """Notes every request as (path, headers). As a proxy it answers by itself and tunnels anywhere."""

    protocol_version = "HTTP/1.1"
    rbufsize = 0

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        path = self.path.partition("?")[0].removeprefix("http://files.test:80")
        answer = getattr(self, "answer_" + path.strip("/").partition("/")[0].replace(".", "_").replace("-", "_"), None)
        if answer is None:
            self.send_error(404)
        else:
            answer()

    def do_CONNECT(self):
        self.server.seen.append((self.path, dict(self.headers)))
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2])), timeout=20) as far:
            ends = {self.connection: far, far: self.connection}
            pumps = [threading.Thread(target=self.pump, args=pair) for pair in ends.items()]
            for thread in pumps:
                thread.start()
            for thread in pumps:
                thread.join()
        self.close_connection = True

    @staticmethod
    def pump(source, sink):
        try:
            while piece := source.recv(65536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def whole(self, body, **headers):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def lead_to(self, location, status=302):
        self.send_response(status)
        self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer_file(self):
        self.whole(BODY)

    def answer_gzip(self):
        self.whole(BODY, Content_Encoding="gzip")

    def answer_empty(self):
        self.whole(b"")

    def answer_chunked(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for at in range(0, len(BODY), 10_000):
            piece = BODY[at : at + 10_000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def answer_until_the_end(self):
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(BODY)
        self.close_connection = True

    def answer_moved(self):
        self.lead_to("deeper/../file?with=query", 301)

    def answer_elsewhere(self):
        self.lead_to(self.headers["X-Other"] or f"http://localhost:{self.server.server_port}/file")

    def answer_circle(self):
        self.lead_to("/circle", 307)

    def answer_to_file(self):
        self.lead_to("file:///etc/passwd")

    def answer_busy_twice(self):
        tries = sum(path == self.path for path, _ in self.server.seen)
        if tries <= 2:
            self.send_error(503)
        else:
            self.answer_file()

    def answer_forbidden(self):
        self.send_error(403)

    def answer_cut(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[:1000])
        self.close_connection = True

    def answer_cut_once(self):
        if sum(path == self.path for path, _ in self.server.seen) == 1:
            self.answer_cut()
        else:
            self.answer_file()

    def answer_endless_header(self):
        self.send_response(200)
        for n in range(3000):
            self.send_header(f"X-{n}", "x" * 60)
        self.end_headers()

    def answer_tree_nar(self):
        self.whole(nar_of_folder(b"f", b"restored\n"))

    def answer_tree_nar_xz(self):
        self.whole(lzma.compress(nar_of_folder(b"f", b"restored\n")))

    def answer_cut_nar_xz(self):
        self.whole(lzma.compress(nar_of_folder(b"f", BODY))[:-200])

    def answer_escape_nar(self):
        self.whole(nar_of_folder(b"..", b"out\n"))

    def log_message(self, *_):
        pass


class Site:
    """A server on loopback in a thread; with `certificate`, (file, key), by TLS."""

    def __init__(self, certificate=None):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.server.seen = []
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def seen(self, path):
        return [headers for asked, headers in self.server.seen if asked == path]

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def make_certificate(folder, name):
    """(file, key) of a server `name` that vouches for itself."""
    key, file = folder / f"{name}.key", folder / f"{name}.crt"
    kind = "IP" if name[0].isdigit() else "DNS"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName={kind}:{name}", "-keyout", key, "-out", file],
        check=True, stderr=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    return file, key


@pytest.fixture(scope="module")
def site():
    opened = Site()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def tls(module_scratch):
    certificate = make_certificate(module_scratch, "localhost")
    opened = Site(certificate)
    opened.certificate = certificate[0]
    yield opened
    opened.close()


class Fetch:
    """Runs the program; `out` is what it makes."""

    def __init__(self, folder):
        self.out = folder / "out"

    def __call__(self, url, *settings, check=True, **attributes):
        environment = {"out": str(self.out), "url": url, **attributes}
        done = subprocess.run(
            [peers.program("nixbuild-builtin"), "builtin:fetchurl", "network=1", *map(str, settings)],
            env=environment, stderr=subprocess.PIPE, text=True, timeout=60, cwd=self.out.parent,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        assert check or done.returncode == 1, done.stderr
        return done.stderr


@pytest.fixture
def fetch(tmp_path):
    return Fetch(tmp_path)


@pytest.mark.parametrize("path", ["file", "chunked", "until-the-end", "gzip", "moved", "elsewhere", "cut-once", "busy-twice"])
def test_contents_arrive_as_they_are(fetch, site, path):
    said = fetch(f"http://127.0.0.1:{site.port}/{path}")
    assert fetch.out.read_bytes() == BODY
    assert fetch.out.stat().st_mode & 0o777 == 0o644
    assert f"downloaded {len(BODY)} bytes" in said
    assert said.count("retrying") == {"cut-once": 1, "busy-twice": 2}.get(path, 0)


def test_an_empty_file(fetch, site):
    fetch(f"http://127.0.0.1:{site.port}/empty")
    assert fetch.out.read_bytes() == b""


def test_what_a_url_may_not_have_is_escaped(fetch, site):
    fetch(f"http://127.0.0.1:{site.port}/file/a b|ä?x={{y}}")
    assert len(site.seen("/file/a%20b%7C%C3%A4?x=%7By%7D")) == 1


@pytest.mark.parametrize(
    "path, error, tries",
    [
        ("nowhere", "HTTP error 404", 1),
        ("forbidden", "HTTP error 403", 1),
        ("cut", "after 1000 bytes", 5),
        ("circle", "more than 10 redirects", 11),
        ("to-file", "is no http, https or file URL", 1),
        ("endless-header", "the server's answer", 5),
    ],
)
def test_errors_say_why_and_leave_nothing(fetch, site, path, error, tries):
    before = len(site.seen(f"/{path}"))
    said = fetch(f"http://127.0.0.1:{site.port}/{path}", check=False)
    assert error in said.splitlines()[-1]
    assert len(site.seen(f"/{path}")) - before == tries
    assert not fetch.out.exists()


@pytest.mark.parametrize(
    "url, error",
    [
        ("ftp://127.0.0.1/file", "is no http, https or file URL"),
        ("nonsense", "is no URL"),
        ("http:///file", "names no host"),
        ("http://127.0.0.1:1/file", "Connection refused"),
        ("https://127.0.0.1:1/file", "Connection refused"),
        ("http://no-such-host.invalid/file", "cannot resolve host 'no-such-host.invalid'"),
    ],
)
def test_urls_that_lead_nowhere(fetch, url, error):
    assert error in fetch(url, check=False).splitlines()[-1]


def test_executable(fetch, site):
    fetch(f"http://127.0.0.1:{site.port}/file", executable="1")
    assert fetch.out.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("path", ["tree.nar", "tree.nar.xz"])
def test_archives_are_restored(fetch, site, path):
    fetch(f"http://127.0.0.1:{site.port}/{path}", unpack="1")
    assert os.listdir(fetch.out) == ["f"]
    assert (fetch.out / "f").read_bytes() == b"restored\n"


@pytest.mark.parametrize("path, error", [("cut.nar.xz", "cut short"), ("file", "expected 'nix-archive-1'"), ("escape.nar", "'..'")])
def test_archives_that_are_none(fetch, site, path, error):
    assert error in fetch(f"http://127.0.0.1:{site.port}/{path}", unpack="1", check=False)
    assert not (fetch.out.parent / "out\n").exists()


def test_certificates_are_checked(fetch, tls, tmp_path):
    url = f"https://localhost:{tls.port}/file"
    fetch(url, f"certificates={tls.certificate}")
    assert hashlib.sha256(fetch.out.read_bytes()).digest() == hashlib.sha256(BODY).digest()
    fetch.out.unlink()
    by_address = fetch(f"https://127.0.0.1:{tls.port}/file", f"certificates={tls.certificate}", check=False)
    assert "the certificate of '127.0.0.1' cannot be trusted" in by_address
    other, _ = make_certificate(tmp_path, "localhost")
    assert "the certificate of 'localhost' cannot be trusted" in fetch(url, f"certificates={other}", check=False)
    assert "no certificates to check servers by" in fetch(url, "certificates=/nowhere", check=False)
    assert not fetch.out.exists()


def test_credentials_go_to_their_host_alone(fetch, site, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text(
        "machine 127.0.0.1 login ada password lovelace\nmacdef init\nmachine localhost\n\n"
        "machine localhost\n  login grace\n  password hopper\n"
    )

    def basic(text):
        return "Basic " + base64.b64encode(text.encode()).decode()

    fetch(f"http://127.0.0.1:{site.port}/elsewhere?netrc", f"netrc={netrc}")
    assert site.seen("/elsewhere?netrc")[-1]["Authorization"] == basic("ada:lovelace")
    assert site.seen("/file")[-1]["Authorization"] == basic("grace:hopper")
    fetch.out.unlink()
    fetch(f"http://me:it%20is@127.0.0.1:{site.port}/elsewhere?url")
    assert site.seen("/elsewhere?url")[-1]["Authorization"] == basic("me:it is")
    assert "Authorization" not in site.seen("/file")[-1]


def test_proxies(fetch, site, tls):
    proxy = f"127.0.0.1:{site.port}"
    fetch("http://files.test/file", f"http_proxy=http://user:word@{proxy}/")
    asked = site.seen("http://files.test:80/file")
    assert asked[-1]["Host"] == "files.test"
    assert asked[-1]["Proxy-Authorization"] == "Basic " + base64.b64encode(b"user:word").decode()
    fetch.out.unlink()
    fetch(f"https://localhost:{tls.port}/file", f"https_proxy={proxy}", f"certificates={tls.certificate}")
    assert len(site.seen(f"localhost:{tls.port}")) == 1
    assert fetch.out.read_bytes() == BODY
    fetch.out.unlink()
    fetch(f"http://localhost:{site.port}/file", "all_proxy=127.0.0.1:1", "no_proxy=example.org, .localhost")
    fetch.out.unlink()
    assert "Connection refused" in fetch("http://files.test/file", "all_proxy=127.0.0.1:1", check=False)


def test_files_are_inputs_and_nothing_else(fetch, tmp_path):
    """The file of credentials lies in the same machine: no URL and no link leads to it."""
    store = tmp_path / "store"
    store.mkdir()
    (store / "input").write_bytes(BODY)
    secret = tmp_path / ".netrc"
    secret.write_text("machine m login l password p\n")
    (store / "link").symlink_to(secret)
    fetch(f"file://{store}/input", f"netrc={secret}", NIX_STORE=str(store))
    assert fetch.out.read_bytes() == BODY
    fetch.out.unlink()
    for url in (f"file://{secret}", f"file://{store}/../.netrc", f"file://{store}/link", "file:///proc/self/cmdline"):
        said = fetch(url, f"netrc={secret}", check=False, NIX_STORE=str(store))
        assert "is not in the store" in said
        assert not fetch.out.exists()


def test_without_a_network(tmp_path):
    done = subprocess.run(
        [peers.program("nixbuild-builtin"), "builtin:fetchurl"],
        env={"out": str(tmp_path / "out"), "url": "http://127.0.0.1:1/"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "must be a fixed-output or impure derivation" in done.stderr
