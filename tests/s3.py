"""A real S3 server on the loopback, and a proxy before it that fails as networks and servers do."""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread

import pytest

ROOT = Path(__file__).parents[1]
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class S3:
    """moto's server, started from an environment of its own."""

    def __init__(self, log):
        there = ROOT / ".s3-server" / "bin" / "moto_server"
        command = str(there) if there.exists() else shutil.which("moto_server")
        if command is None:
            pytest.skip("needs a real S3 server: make s3-server")
        self.port = free_port()
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [command, "-H", "127.0.0.1", "-p", str(self.port)], stdout=file, stderr=subprocess.STDOUT
            )
        while True:
            assert self.process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)

    def new_bucket(self, name):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    def close(self):
        self.process.terminate()
        self.process.wait()


class Faults:
    """A proxy to the server; `fault` decides what becomes of each request.

    fault : called with method, path and the number of requests of that method so far (from 1); returns None, or
        "503", "403", "slow" (answers late), "cut" (half of the answer, then nothing), "lost" (done, but the
        answer never comes), "unheard" (not done, no answer), "flip" (one byte of the answer is another one)
    """

    def __init__(self, server):
        self.fault = lambda _method, _path, _number: None
        self.counts = {}
        self.lock = Lock()
        faults = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                with faults.lock:
                    number = faults.counts[self.command] = faults.counts.get(self.command, 0) + 1
                fault = faults.fault(self.command, self.path, number)
                if fault in ("503", "403"):
                    code = "SlowDown" if fault == "503" else "AccessDenied"
                    self.answer(int(fault), {}, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())
                    return
                if fault == "slow":
                    time.sleep(0.3)
                answer = None if fault == "unheard" else self.ask_server(body)
                if answer is None or fault == "lost":
                    self.hang_up()
                    return
                status, headers, content = answer
                middle = len(content) // 2
                if fault == "flip" and content:
                    content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
                self.answer(status, headers, content, middle if fault == "cut" and content else None)

            def ask_server(self, body):
                with closing(HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
                    try:
                        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                        connection.request(self.command, self.path, body, headers)
                        answer = connection.getresponse()
                        return answer.status, dict(answer.getheaders()), answer.read()
                    except (OSError, HTTPException):
                        return None

            def answer(self, status, headers, content, n_bytes=None):
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                        self.send_header(name, value)
                is_head = self.command == "HEAD"
                self.send_header("Content-Length", headers.get("Content-Length", "0") if is_head else len(content))
                self.end_headers()
                if not is_head:
                    self.wfile.write(content[:n_bytes])
                if n_bytes is not None:
                    self.hang_up()

            def hang_up(self):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def set(self, fault):
        self.counts.clear()
        self.fault = fault

    def clear(self):
        self.set(lambda _method, _path, _number: None)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def kill(pid):
    """Kill a process, and let it be gone before what it asked for is answered."""
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.05)
