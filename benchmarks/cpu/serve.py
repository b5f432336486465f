# SPDX-License-Identifier: Apache-2.0
"""Servers under load: weir serve and llama-server with the same file, weir-bench in turn against both over HTTP and
against weir over nanomsg. benchmarks/load/against.sh is the same for a server that you have started."""
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from engines import Failed
from sample import end_group

READY_S = 60


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A process of a session of its own, with its folder; ended with everything it started."""

    def __init__(self, command, folder, library_path=None):
        env = dict(os.environ)
        if library_path:
            env["LD_LIBRARY_PATH"] = library_path
        self.log = os.path.join(folder, os.path.basename(command[0]) + ".log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
                                            start_new_session=True)

    def wait(self, ready):
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                with open(self.log, errors="replace") as f:
                    raise Failed("the server ended: %s" % (f.read().strip().splitlines() or ["no message"])[-1][:200])
            if ready():
                return
            time.sleep(0.05)
        raise Failed("the server was not ready in %d s" % READY_S)

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        end_group(self.process)
        self.process.wait()


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as r:
            return r.status == 200
    except (urllib.error.URLError, OSError):
        return False


def start_weir(weir, path, folder):
    ready = os.path.join(folder, "ready")
    server = Server([weir.weir, "serve", "--listen", "127.0.0.1:0", "--runtime-dir", folder, "--ready-file", ready, "--large", path,
                     "--mode", "large", "--threads", str(weir.threads), "--isa", weir.isa, "--temperature", "0",
                     "--prefix-cache", "0", "--gateway-arg", "--log-level=warning"], folder)
    try:
        server.wait(lambda: os.path.exists(ready))
    except BaseException:
        server.end()
        raise
    with open(ready) as f:
        at = json.load(f)
    return server, {"weir": at["http"], "weir nanomsg": at["rpc"][0] if at["rpc"] else None}


def start_llama(llama, path, folder, clients):
    port = free_port()
    server = Server([os.path.join(llama.folder, "llama-server"), "-m", path, "-t", str(llama.threads), "-np", str(clients), "-c",
                     str(512 * clients), "--no-cache-prompt", "--host", "127.0.0.1", "--port", str(port)], folder, llama.library_path)
    url = "http://127.0.0.1:%d" % port
    try:
        server.wait(lambda: answers(url + "/health"))
    except BaseException:
        server.end()
        raise
    return server, {llama.name: url}


class Servers:
    """Both, for the length of a section; each idle while the other one is asked."""

    def __init__(self, build, weir, llama, path, clients):
        self.bench = os.path.join(build, "benchmarks/load/weir-bench")
        self.folder = tempfile.TemporaryDirectory()
        self.running, self.urls = [], {}
        try:
            for start in ([lambda f: start_weir(weir, path, f)] +
                          ([lambda f: start_llama(llama, path, f, clients)] if llama and llama.has("llama-server") else [])):
                server, urls = start(self.folder.name)
                self.running.append(server)
                self.urls.update({k: v for k, v in urls.items() if v})
        except BaseException:
            self.close()
            raise

    def leaders(self):
        return [s.process.pid for s in self.running]

    def command(self, who, clients, size, seed):
        return [self.bench, "-u", self.urls[who], "-c", str(clients), "-n", str(size.requests * clients), "-d", "30", "-i",
                str(size.input), "-o", str(size.output), "--ignore-eos", "-w", "2", "--seed", str(seed), "--json",
                os.path.join(self.folder.name, "report.json")]

    def figures(self, clients):
        with open(os.path.join(self.folder.name, "report.json")) as f:
            p = json.load(f)["points"][0]
        if p["requests"]["errors"]:
            raise Failed("%d requests went wrong: %s" % (p["requests"]["errors"], p["requests"]["by_error"]))
        return {"c%d_tok_s" % clients: p["throughput"]["output_tok_s"], "c%d_ttft_ms" % clients: p["latency_ms"]["ttft"]["p50"]}

    def close(self):
        for server in self.running:
            server.end()
        self.folder.cleanup()
