#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The page at / in a headless Chromium, against the real server: a text is typed, tokens come with their tiers, an answer is
stopped, errors are told, what a model says stays text. What a server does not do on demand (429, a hostile model) is
answered by the browser's own interception, on the same page from the same server.

usage: page_test.py PROGRAM [--page FILE] [--url URL] [--shots DIR]
   PROGRAM      weir; `weir serve` is started on a port that the system chooses
   --page FILE  engine/net/page.html: what the server must deliver
   --url URL    a server that is there already, instead of PROGRAM
   --shots DIR  screenshots: wide and narrow, light and dark
Exit status 77: SKIP, for want of Chromium or of `weir serve`.
"""
import argparse
import json
import os
import sys
import urllib.request

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import devtools  # noqa: E402
import served  # noqa: E402

TASK = "Question: Convert 7 hours and 25 minutes to minutes.\nAnswer:"
TALE = "Once upon a time"
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script><b>bold</b>&amp;'


def equal(have, want, what):
    if have != want:
        raise devtools.Failed(f"{what}: have {have!r}, want {want!r}")


def true(is_so, what):
    if not is_so:
        raise devtools.Failed(what)


def settle(page, limit=30):
    page.wait("!running && !document.querySelector('[data-busy]')", limit, "the answer to end")


def say(page, text, limit=30):
    """Types a text as a person does and waits for the end of the answer."""
    page.value("$('text').value = ''; $('text').focus()")
    page.type(text)
    page.press("Enter", text="\r")
    settle(page, limit)


LAST = "[...answers].at(-1)"


def answer(page):
    return page.value(
        f"(a => ({{tokens: a.tokens.map(({{span, ...t}}) => ({{...t, shown: span.textContent, large: span.classList.contains('large')}})), text: a.text,"
        f" body: a.body.textContent, sum: a.sum.textContent, finish: a.finish, tau: a.tau, usage: a.usage, strip: !a.canvas.hidden }}))({LAST})")


def sse(*chunks, done=True):
    return "".join("data: " + json.dumps(c) + "\n\n" for c in chunks) + ("data: [DONE]\n\n" if done else "")


# ---- against the server as it is ----

def loads(page, url, page_file):
    page.wait("server.known && $('state').dataset.is === 'ok'", 20, "the page to know its server")
    equal(page.value("document.title"), "weir: " + page.value("server.model"), "title")
    with urllib.request.urlopen(url, timeout=10) as r:
        body, policy = r.read(), r.headers.get("Content-Security-Policy", "")
    if page_file:
        true(body == open(page_file, "rb").read(), "what is served at / is not " + page_file)
    for part in ("default-src 'none'", "connect-src 'self'"):
        true(part in policy, f"Content-Security-Policy of / is {policy!r}: no {part}")
    true("%" in page.value("$('s-kv').textContent"), "no KV use is shown")


def completes(page):
    page.value("setKind('text')")
    say(page, TALE)
    a = answer(page)
    true(len(a["tokens"]) > 20, f"only {len(a['tokens'])} tokens: {a['text']!r}")
    equal("".join(t["shown"] for t in a["tokens"]), a["text"], "text of the tokens")
    equal(a["body"], TALE + a["text"], "text that is shown")
    large = [t for t in a["tokens"] if t["tier"] == "large"]
    true(0 < len(large) < len(a["tokens"]), f"{len(large)} of {len(a['tokens'])} tokens by the large model: not a cascade")
    for t in a["tokens"]:
        equal(t["large"], t["tier"] == "large", f"mark of token {t['shown']!r}")
        if t["H"] is not None:
            equal(t["tier"], "large" if t["H"] > a["tau"] else "small", f"tier of {t['shown']!r} with H {t['H']}, threshold {a['tau']}")
    rate = len(large) / len(a["tokens"])
    shown = a["sum"].split("deferral ")[1].split(" %")[0]
    true(abs(float(shown) - 100 * rate) <= 0.51, f"deferral rate shown {shown} %, counted {100 * rate:.2f} %")
    equal(a["usage"]["completion_tokens"], len(a["tokens"]), "completion_tokens")
    for part in ("tok/s", "first token", "large steps saved", "against the large model alone operations", "weight reads", "Copy"):
        true(part in a["sum"], f"no {part} in {a['sum']!r}")
    true(a["strip"], "no strip of entropies")
    true(page.value(f"(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(x => x))({LAST}.canvas)"), "the strip is empty")


def explains(page):
    page.hover(".answer .large")
    page.wait("!$('tip').hidden", 5, "what is known of a token")
    tip = page.value("$('tip').textContent")
    for part in ("large, deferred", "nats > τ", "top p", "margin", "wait"):
        true(part in tip, f"no {part!r} in {tip!r}")
    # the same by keyboard
    page.value(f"hideTip(); {LAST}.body.focus()")
    page.press("ArrowRight")
    page.press("ArrowRight")
    true(page.value("!$('tip').hidden && $('say').textContent.startsWith('Token 2 of ')"), "arrow keys do not walk the tokens: " + page.value("$('say').textContent"))
    page.press("Escape")
    true(page.value("$('tip').hidden"), "Escape does not put the tip away")


def thresholds(page):
    def with_tau(tau):
        page.value("$('tau').value = %s; $('tau').dispatchEvent(new Event('input'))" % tau)
        say(page, TASK)
        return answer(page)
    top = float(page.value("$('tau').max"))
    a = with_tau(top)
    equal([t["tier"] for t in a["tokens"] if t["H"] is None or t["H"] <= top], ["small"] * len(a["tokens"]), f"tiers with threshold {top}")
    b = with_tau(page.value("$('tau').min"))
    true(all(t["tier"] == "large" for t in b["tokens"] if t["H"] is not None and t["H"] > b["tau"]), "tokens above the threshold by the small model")
    true(sum(t["tier"] == "large" for t in b["tokens"]) > len(b["tokens"]) / 2, "the lowest threshold defers less than half")
    page.click("#tau-off")
    equal(page.value("tauMoved"), False, "the server's threshold again")


def pins(page):
    # a mode and a threshold that were chosen before do not stand in its way
    page.value("$('mode').value = 'defer'; $('tau').value = 0.5; tauMoved = true; showSettings(); $('pin').click()")
    say(page, TALE)
    a = answer(page)
    equal({t["tier"] for t in a["tokens"]}, {"small"}, "tiers of a pinned request")
    above = page.value("Number($('tau').value)")
    equal(page.value("[...answers].at(-1).body.querySelectorAll('.dotted').length"), sum(t["H"] is not None and t["H"] > above for t in a["tokens"]),
          "marks of what would have been deferred")
    true(page.value("!!document.querySelector('.answer:last-of-type .dotted')"), "nothing would have been deferred: the test says nothing")


def reset(page):
    """As a page newly opened, whatever the test before left behind."""
    page.wait("!running", 40)
    page.value("$('pin').checked = false; $('mode').value = ''; $('text').value = ''; tauMoved = false; showSettings(); hideTip(); 0")


def modes(page):
    for mode in page.value("[...$('mode').options].filter(o => o.value && !o.disabled).map(o => o.value)"):
        page.value("$('mode').value = '%s'; $('mode').dispatchEvent(new Event('change'))" % mode)
        say(page, TASK)
        a = answer(page)
        true(a["tokens"] and a["finish"] in ("stop", "length"), f"mode {mode}: {a['finish']}, {a['text']!r}")
        equal(a["usage"]["weir"]["mode"], mode, "mode that held")
        if mode in ("small", "large"):
            equal({t["tier"] for t in a["tokens"]}, {mode}, f"tiers of mode {mode}")
    page.value("$('mode').value = ''; $('mode').dispatchEvent(new Event('change'))")


def chats(page):
    page.click("#fresh")
    page.value("setKind('chat')")
    page.value("$('text').focus()")
    page.type("one")
    page.press("Enter", text="\r", modifiers=8)
    page.type("two")
    equal(page.value("$('text').value"), "one\ntwo", "Shift and Enter")
    equal(page.value("messages.length"), 0, "messages before Enter")
    say(page, "Convert 7 hours and 25 minutes to minutes.")
    settle(page)
    if page.value("kind()") == "text":  # no template in this model: the page has gone over to completions
        true(page.value("!!document.querySelector('.note')"), "it does not say so")
        return
    say(page, "Sort these numbers in ascending order: 14, 3, 27, 9, 41")
    equal(page.value("messages.map(m => m.role).join()"), "user,assistant,user,assistant", "roles")
    equal(page.value("messages[3].content"), answer(page)["text"], "what is remembered of an answer")
    equal(page.value("document.querySelectorAll('.you').length"), 2, "what was said")


def stops(page):
    """The stream is held up at the browser's door, so that there is something to stop."""
    page.click("#fresh")
    page.value("setKind('text')")
    page.call("Network.emulateNetworkConditions", {"offline": False, "latency": 0, "downloadThroughput": 4000, "uploadThroughput": -1})
    page.value("$('text').focus()")
    page.type(TALE)
    page.press("Enter", text="\r")
    page.wait("running && running.tokens.length > 0", 30, "a first token")
    true(page.value("!$('stop').hidden && $('send').hidden"), "no stop button")
    page.press("Escape")
    settle(page, 5)
    page.call("Network.emulateNetworkConditions", {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1})
    a = answer(page)
    equal(a["finish"], "stopped", "end")
    true("stopped" in a["sum"] and a["tokens"], f"{a['sum']!r}")
    true(page.value("$('stop').hidden && !$('send').hidden && !document.querySelector('.error')"), "the page is not ready for more")
    say(page, TASK)
    true(answer(page)["finish"] in ("stop", "length"), "no answer after a stop")


def refuses(page):
    """The server's own refusal: a prompt longer than the context."""
    page.value("$('text').value = 'word '.repeat(60 * Math.max(512, server.info.context || 0) / 10); send()")
    settle(page)
    message = page.value("document.querySelector('.error') && document.querySelector('.error').textContent")
    true(message and message.startswith(("Not understood", "Too long")), f"told: {message!r}")
    true(message.split(":")[0] in page.value("$('alarm').textContent"), "a screen reader is not told")
    true(page.value("$('text').value.startsWith('word')"), "what was typed is lost")


# ---- on the same page, with answers that a server does not give on demand ----

def canned(page, by_path, then):
    def fn(url):
        return next((a for path, a in by_path.items() if url.endswith(path)), None)
    page.intercepting(fn)
    try:
        then()
    finally:
        page.intercepting(None)


def error(status, message, **headers):
    return status, {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}, json.dumps(
        {"error": {"message": message, "type": "x", "param": None, "code": None}})


def busy(page):
    page.click("#fresh")
    page.value("setKind('text')")

    def told():
        say(page, TASK)
        text = page.value("document.querySelector('.error').textContent")
        true("Too many requests: the queue is full" in text and "in 2 s" in text, f"429: {text!r}")
        true(page.value("document.querySelector('.error button').disabled"), "one may try again at once")
        equal(page.value("$('text').value"), TASK, "what was typed")
        true(page.value("!document.querySelector('article')"), "an answer that was none is shown")
        page.wait("!document.querySelector('.error button').disabled", 5, "the wait to end")
    canned(page, {"/v1/completions": error(429, "the queue is full", Retry_After=2)}, told)
    page.click(".error button")
    page.wait("answers.size === 1 && !running", 30, "the second try")
    true(page.value("!document.querySelector('.error')"), "the error stays")

    def draining():
        say(page, TASK)
        true("Not ready: draining" in page.value("document.querySelector('.error').textContent"), "503 is not told")
    canned(page, {"/v1/completions": error(503, "draining", Retry_After=1)}, draining)

    def keyless():
        say(page, TASK)
        equal(page.value("document.activeElement.id"), "key", "focus after 401")
    canned(page, {"/v1/completions": error(401, "no key")}, keyless)


def keys(page):
    page.value("$('key').focus(); $('key').select()")
    page.type("secret-1")
    page.value("$('key').dispatchEvent(new Event('change'))")
    equal(page.value("[sessionStorage.getItem('weir.key'), localStorage.length, document.cookie].join('|')"), "secret-1|0|", "where the key is kept")
    equal(page.value("headers().Authorization"), "Bearer secret-1", "header")
    page.value("$('key').value = ''; $('key').dispatchEvent(new Event('change'))")
    equal(page.value("'Authorization' in headers()"), False, "header without a key")


def stays_text(page):
    page.click("#fresh")
    page.value("setKind('text')")
    title = page.value("document.title")
    token = {"id": 1, "text": HOSTILE, "tier": HOSTILE, "why": HOSTILE, "H": 9.0, "p_max": HOSTILE, "margin": None, "logprob": {}, "wait_ms": "1", "wanted_up": True}
    stream = sse({"choices": [{"index": 0, "text": HOSTILE, "weir": {"tokens": [token]}}]},
                 {"choices": [{"index": 0, "text": " ä", "weir": {"tokens": [{"id": 2, "text": "\ufffd", "tier": "large", "why": "deferred", "H": None}, {"id": 3, "text": "\ufffd", "tier": "small"}]}}]},
                 {"choices": [{"index": 0, "text": "", "finish_reason": HOSTILE}]},
                 {"choices": [], "usage": {"completion_tokens": HOSTILE, "weir": {"mode": HOSTILE, "entropy": HOSTILE}}})

    def shown():
        say(page, HOSTILE)
        a = answer(page)
        equal(a["text"], HOSTILE + " ä", "text")
        equal(a["body"], HOSTILE + HOSTILE + " ä", "text that is shown")
        page.hover(".answer .tok")
        page.wait("!$('tip').hidden", 5, "what is known of a token")
    canned(page, {"/v1/completions": (200, {"Content-Type": "text/event-stream"}, stream)}, shown)

    def refused():
        say(page, TASK)
        true(HOSTILE in page.value("document.querySelector('.error').textContent"), "an error's message is not whole")
    canned(page, {"/v1/completions": error(400, HOSTILE)}, refused)

    hostile_stats = {"ready": True, "running": HOSTILE, "waiting": {}, "tokens_per_second": HOSTILE, "kv_used": None, "deferral_rate": "x", "engines": [None]}
    canned(page, {"/stats": (200, {"Content-Type": "application/json"}, json.dumps(hostile_stats))}, lambda: page.value("poll.busy = false; poll.run()"))
    equal(page.value("document.querySelectorAll('#log img, #log b:not(.sum b):not(.error b), #log script, #tip img, #live img').length"), 0, "elements made of text")
    equal(page.value("document.title"), title, "title")
    true(page.value("(() => { try { document.createElement('p').innerHTML = '<b>'; return false; } catch { return true; } })()"), "the page may make markup of text")


def breaks_off(page):
    page.click("#fresh")
    page.value("setKind('chat')")
    piece = {"choices": [{"index": 0, "delta": {"content": "half"}, "weir": {"tokens": [{"id": 1, "text": "half", "tier": "small", "why": "easy", "H": 0.1}]}}]}
    events = {"Content-Type": "text/event-stream"}

    def late():
        say(page, "a")
        true("The answer broke off: out of time" in page.value("document.querySelector('.error').textContent"), "an error inside a stream is not told")
        equal(page.value("messages.map(m => m.content).join()"), "a,half", "what is remembered")
    canned(page, {"/v1/chat/completions": (200, events, sse(piece, {"error": {"message": "out of time", "type": "timeout_error"}}, done=False))}, late)

    def cut():
        say(page, "b")
        true("ended before" in page.value("document.querySelector('.error').textContent"), "a stream without an end is not told")
    canned(page, {"/v1/chat/completions": (200, events, sse(piece, done=False))}, cut)

    def no_template():
        page.click("#fresh")
        say(page, "c")
        page.wait("kind() === 'text' && answers.size === 1 && !running", 10, "the page to go over to completions")
        equal(page.value("messages.length"), 0, "messages")
        equal(answer(page)["text"], "half", "text")
    canned(page, {"/v1/chat/completions": error(400, "the model has no chat template"),
                  "/v1/completions": (200, events, sse({"choices": [{"index": 0, "text": "half", "finish_reason": "length"}]}))}, no_template)


def rests(page):
    """A page that nobody looks at asks for nothing."""
    page.wait("!poll.busy", 10)
    page.value("Object.defineProperty(document, 'hidden', {configurable: true, get: () => true}); document.dispatchEvent(new Event('visibilitychange'))")
    before = len(page.requests)
    page.value("poll.run()")
    equal(page.requests[before:], [], "requests of a hidden page")
    page.value("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.wait("!poll.busy", 10)
    true(any(u.endswith("/stats") for u in page.requests[before:]), "the page does not wake up")


CONTRAST = """(() => {
  const css = getComputedStyle(document.documentElement), c = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const light = name => { c.fillStyle = css.getPropertyValue(name); c.fillRect(0, 0, 1, 1);
    const l = [...c.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * l[0] + .7152 * l[1] + .0722 * l[2]; };
  return (a, b) => { const x = light(a), y = light(b); return (Math.max(x, y) + .05) / (Math.min(x, y) + .05); };
})()"""


def readable(page, dark):
    """Contrast as WCAG 2 asks for: 4.5 for text, 3 for what else carries meaning."""
    page.theme(dark)
    for a, b, least in (("--ink", "--bg", 4.5), ("--ink", "--card", 4.5), ("--dim", "--bg", 4.5), ("--dim", "--card", 4.5), ("--ink", "--large-bg", 4.5),
                        ("--ink", "--you", 4.5), ("--on-accent", "--accent", 4.5), ("--bad", "--bad-bg", 4.5), ("--ink", "--bad-bg", 4.5),
                        ("--large", "--large-bg", 3), ("--small", "--bg", 3), ("--large-bar", "--bg", 2.9), ("--focus", "--bg", 3)):
        have = page.value(f"{CONTRAST}('{a}', '{b}')")
        true(have >= least, f"contrast of {a} on {b} is {have:.2f}, {'dark' if dark else 'light'}")
    nameless = page.value("""[...document.querySelectorAll('input, select, textarea, button')].filter(e =>
      !(e.labels && e.labels.length && [...e.labels].some(l => l.textContent.trim())) && !e.textContent.trim() && !e.getAttribute('aria-label')).map(e => e.outerHTML)""")
    equal(nameless, [], "controls without a name")


def narrow(page):
    page.wait("server.known && $('state').dataset.is === 'ok'", 20, "the page to know its server")
    for width in (320, 360):
        page.call("Emulation.setDeviceMetricsOverride", {"width": width, "height": 640, "deviceScaleFactor": 2, "mobile": True})
        true(page.value(f"document.documentElement.scrollWidth <= {width} && innerWidth <= {width} && $('log').scrollWidth <= $('log').clientWidth"), f"wider than {width} px")
    equal(page.value("(b => b.right <= innerWidth && b.bottom <= innerHeight && b.height >= 36)($('send').getBoundingClientRect())"), True, "the send button is at hand")
    page.value("setKind('text'); $('text').value = %s; send()" % json.dumps(TALE))
    settle(page)
    true(page.value("$('log').scrollWidth <= $('log').clientWidth"), "an answer is wider than the screen")
    page.click(".answer .large")
    page.wait("!$('tip').hidden", 5, "a tap to tell of a token")
    true(page.value("(b => b.left >= 0 && b.right <= innerWidth && b.top >= 0 && b.bottom <= innerHeight)($('tip').getBoundingClientRect())"), "the tip is off the screen")
    page.click("#open")
    true(page.value("$('side').getBoundingClientRect().width === innerWidth && document.activeElement.id === 'shut'"), "settings do not open")
    page.press("Escape")
    page.value("hideTip()")
    page.press("Escape")
    true(page.value("getComputedStyle($('side')).display === 'none' && document.activeElement.id === 'open'"), "settings do not close")


def shots(browser, url, where):
    for name, how in (("wide", {"width": 1280, "height": 800}), ("narrow", {"width": 360, "height": 740, "phone": True})):
        for dark in (False, True):
            page = browser.open(url, dark=dark, **how)
            page.wait("server.known && $('state').dataset.is === 'ok'", 20)
            page.value("setKind('text')")
            for text in (TALE, TASK):
                page.value("$('text').value = %s; send()" % json.dumps(text))
                settle(page)
            page.value("document.activeElement.blur(); $('log').scrollTop = 0")
            page.hover(".answer .large")
            page.wait("!$('tip').hidden && !poll.busy")
            page.value("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
            page.screenshot(os.path.join(where, f"page-{name}-{'dark' if dark else 'light'}.png"))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("program", nargs="?")
    p.add_argument("--page")
    p.add_argument("--url")
    p.add_argument("--shots")
    o = p.parse_args()
    if not devtools.program():
        served.skip("page_test", "no Chromium (package chromium) is installed")
    with served.at(o.program, o.url, "page_test") as url, devtools.Browser() as browser:
        if o.shots:
            shots(browser, url, o.shots)
        page = browser.open(url)
        failed = 0

        def run(name, test, *args):
            nonlocal failed
            try:
                reset(args[0])
                test(*args)
                print("ok    ", name, flush=True)
            except devtools.Failed as e:
                failed += 1
                print("FAILED", name, "-", e, flush=True)

        run("loads", loads, page, url, o.page)
        for test in (completes, explains, thresholds, pins, modes, chats, stops, refuses, busy, keys, breaks_off, rests):
            run(test.__name__, test, page)
        run("readable, light", readable, page, False)
        run("readable, dark", readable, page, True)
        run("stays_text", stays_text, page)
        phone = browser.open(url, width=360, height=640, phone=True)
        run("narrow", narrow, phone)
        for what in (page, phone):
            # A refusal is told to the console by the browser itself, whatever a page does; so is the markup that stays_text tries.
            errors = [e for e in what.errors if not (e.startswith("network: Failed to load resource: the server responded with a status of ")
                                                     and ("/v1/completions" in e or "/v1/chat/completions" in e))
                      and not e.startswith("security: This document requires 'TrustedHTML' assignment.")]
            outside = [u for u in what.requests if not u.startswith((url, "data:"))]
            for line in [*errors, *("request outside: " + u for u in outside)]:
                failed += 1
                print("FAILED console -", line)
        print(f"page_test: {failed} failures")
        return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
