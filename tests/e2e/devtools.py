# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium driven over the DevTools protocol, by its pipe: no port, no WebSocket, no package but Python's own.

    with Browser() as b:
        page = b.open("http://127.0.0.1:1234/")
        page.wait("document.title === 'x'")
        page.value("1 + 1")
"""
import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time

PROGRAMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")


def program():
    """The browser's path, or None."""
    return os.environ.get("WEIR_TEST_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)


class Failed(Exception):
    pass


class Browser:
    def __init__(self, args=()):
        self.dir = tempfile.mkdtemp(prefix="weir-browser-")
        to_r, to_w = os.pipe()
        from_r, from_w = os.pipe()
        # The browser reads descriptor 3 and writes 4, whatever stands there in this process.
        child = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (to_r, from_w)]

        def place():
            os.dup2(child[0], 3)
            os.dup2(child[1], 4)
            os.setsid()

        self.log = open(os.path.join(self.dir, "log"), "wb")
        self.process = subprocess.Popen(
            [program(), "--headless=new", "--remote-debugging-pipe", "--user-data-dir=" + self.dir, "--no-first-run", "--disable-gpu",
             "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--disable-default-apps", "--no-proxy-server", "--hide-scrollbars", "--mute-audio",
             *(["--no-sandbox"] if os.geteuid() == 0 else []), *args, "about:blank"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, pass_fds=(3, 4), preexec_fn=place,
            env={**os.environ, "HOME": self.dir})
        for fd in (to_r, from_w, *child):
            os.close(fd)
        self.w, self.r = to_w, from_r
        self.held = b""
        self.next = 0
        self.answers = {}
        self.pages = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        try:
            self.call("Browser.close", limit=5)
        except (Failed, OSError):
            pass
        for fd in (self.w, self.r):
            os.close(fd)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session: helpers that stayed go with it
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def pump(self, until):
        """Reads messages till `until`, a time of time.monotonic(), or one was read."""
        while b"\0" not in self.held:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.r], [], [], left)[0]:
                return False
            more = os.read(self.r, 1 << 20)
            if not more:
                raise Failed("the browser has gone")
            self.held += more
        one, self.held = self.held.split(b"\0", 1)
        m = json.loads(one)
        if "id" in m:
            self.answers[m["id"]] = m
        elif m.get("sessionId") in self.pages:
            self.pages[m["sessionId"]].event(m["method"], m["params"])
        return True

    def send(self, method, params=None, session=None):
        self.next += 1
        m = {"id": self.next, "method": method, "params": params or {}}
        if session:
            m["sessionId"] = session
        data = json.dumps(m).encode() + b"\0"
        while data:
            data = data[os.write(self.w, data):]
        return self.next

    def call(self, method, params=None, session=None, limit=30):
        n = self.send(method, params, session)
        until = time.monotonic() + limit
        while n not in self.answers:
            if not self.pump(until) and time.monotonic() >= until:
                raise Failed(f"{method}: no answer in {limit} s")
        m = self.answers.pop(n)
        if "error" in m:
            raise Failed(f"{method}: {m['error'].get('message')}")
        return m["result"]

    def open(self, url, width=1280, height=900, dark=False, phone=False, script=None):
        """A tab. script runs in it before the page's own."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self.pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(domain + ".enable")
        page.call("Emulation.setDeviceMetricsOverride",
                  {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone})
        if phone:
            page.call("Emulation.setTouchEmulationEnabled", {"enabled": True})
        page.theme(dark)
        if script:
            page.call("Page.addScriptToEvaluateOnNewDocument", {"source": script})
        page.go(url)
        return page


class Page:
    """errors: what the console was told, exceptions, refusals of the content policy. requests: all URLs asked for.
    intercept: None, or a function of a request's URL that returns None or (status, {header: value}, body)."""

    def __init__(self, browser, session):
        self.browser, self.session = browser, session
        self.errors, self.requests = [], []
        self.loaded = 0
        self.intercept = None

    def call(self, method, params=None, limit=30):
        return self.browser.call(method, params, self.session, limit)

    def event(self, method, p):
        if method == "Runtime.exceptionThrown":
            d = p["exceptionDetails"]
            self.errors.append("exception: " + d.get("exception", {}).get("description", d.get("text", "")))
        elif method == "Runtime.consoleAPICalled" and p["type"] in ("error", "warning", "assert"):
            self.errors.append("console: " + " ".join(str(a.get("value", a.get("description"))) for a in p["args"]))
        elif method == "Log.entryAdded" and p["entry"]["level"] in ("error", "warning"):
            self.errors.append(p["entry"]["source"] + ": " + p["entry"]["text"] + " " + p["entry"].get("url", ""))
        elif method == "Network.requestWillBeSent":
            self.requests.append(p["request"]["url"])
        elif method == "Page.loadEventFired":
            self.loaded += 1
        elif method == "Fetch.requestPaused":
            made = self.intercept and self.intercept(p["request"]["url"])
            if made is None:
                self.browser.send("Fetch.continueRequest", {"requestId": p["requestId"]}, self.session)
            else:
                status, headers, body = made
                self.browser.send("Fetch.fulfillRequest", {
                    "requestId": p["requestId"], "responseCode": status,
                    "responseHeaders": [{"name": k, "value": str(v)} for k, v in headers.items()],
                    "body": base64.b64encode(body.encode()).decode()}, self.session)

    def intercepting(self, fn):
        """From here on requests are shown to fn first; None: no more."""
        self.intercept = fn
        self.call("Fetch.enable" if fn else "Fetch.disable", {"patterns": [{"urlPattern": "*"}]} if fn else {})

    def go(self, url, limit=30):
        before, until = self.loaded, time.monotonic() + limit
        self.call("Page.navigate", {"url": url})
        while self.loaded == before:
            if not self.browser.pump(until) and time.monotonic() >= until:
                raise Failed(f"{url} did not load in {limit} s")

    def theme(self, dark):
        self.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})

    def value(self, expression, limit=30):
        r = self.call("Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True}, limit)
        if "exceptionDetails" in r:
            d = r["exceptionDetails"]
            raise Failed(f"{expression}: {d.get('exception', {}).get('description', d['text'])}")
        return r["result"].get("value")

    def wait(self, condition, limit=20, what=None):
        """Till the expression is true in the page."""
        done = self.value(
            "new Promise(done => { const until = performance.now() + %d; (function look() { let is = false; try { is = !!(%s); } catch {}"
            " if (is || performance.now() > until) done(is); else setTimeout(look, 20); })(); })" % (limit * 1000, condition), limit + 15)
        if not done:
            raise Failed(f"not within {limit} s: {what or condition}")

    def press(self, key, code=None, text=None, modifiers=0):
        p = {"key": key, "code": code or key, "modifiers": modifiers,
             "windowsVirtualKeyCode": {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowRight": 39, "ArrowLeft": 37}.get(key, 0)}
        self.call("Input.dispatchKeyEvent", {**p, "type": "keyDown", **({"text": text} if text else {})})
        self.call("Input.dispatchKeyEvent", {**p, "type": "keyUp"})

    def type(self, text):
        self.call("Input.insertText", {"text": text})

    def click(self, selector):
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1})

    def hover(self, selector):
        x, y = self.middle(selector)
        self.call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})

    def middle(self, selector):
        box = self.value("(() => { const e = document.querySelector(%s); if (!e) return null; e.scrollIntoView({block: 'nearest'});"
                         " const b = e.getClientRects()[0]; return b ? [b.x + b.width / 2, b.y + b.height / 2] : null; })()" % json.dumps(selector))
        if not box:
            raise Failed("nothing to be seen of " + selector)
        return box

    def screenshot(self, path):
        data = self.call("Page.captureScreenshot", {"format": "png"})["data"]
        with open(path, "wb") as f:
            f.write(base64.b64decode(data))
