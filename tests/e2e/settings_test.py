#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What requests ask of the cascade, over HTTP: rules of acceptance, windows, routes, floors of quality, choices, spans, fusion;
what is refused and under which name; what an answer says it cost; that nothing pinned reaches the large model.

usage: settings_test.py PROGRAM     weir; weir-gateway lies beside it. Exit status 77: SKIP.
"""
import json
import os
import re
import sys
import urllib.error
import urllib.request

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import served  # noqa: E402

PROMPT = "Question: Convert 7 hours and 25 minutes to minutes.\nAnswer:"
TALE = "Once upon a time"
SMALL, LARGE = "small", "large"
CHOICES = ["four hundred", "forty-five", "445 minutes", "445"]


def need(is_so, what):
    if not is_so:
        raise SystemExit(f"settings_test: {what}")


class Client:
    def __init__(self, url):
        self.url = url

    def send(self, body):
        r = urllib.request.Request(self.url + "v1/completions", json.dumps(body).encode())
        try:
            with urllib.request.urlopen(r, timeout=60) as a:
                return a.status, a.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def ask(self, weir, prompt=TALE, **more):
        """A whole answer; greedy, 24 tokens and with receipts unless told otherwise."""
        body = {"prompt": prompt, "max_tokens": 24, "temperature": 0, **more, "weir": {"receipts": True, **weir}}
        status, text = self.send(body)
        need(status == 200, f"{weir} {more}: {status} {text}")
        return json.loads(text)

    def text(self, weir, **more):
        return self.ask(weir, **more)["choices"][0]["text"]

    def streamed(self, weir, prompt=TALE, **more):
        body = {"prompt": prompt, "max_tokens": 24, "temperature": 0, **more, "weir": weir, "stream": True}
        status, text = self.send(body)
        need(status == 200 and text.endswith("data: [DONE]\n\n"), f"{weir} {more}: {status} {text}")
        return "".join(c["text"] for e in text.split("\n\n") if e.startswith("data: {") for c in json.loads(e[6:])["choices"])

    def refused(self, body, param):
        status, text = self.send({"prompt": TALE, "max_tokens": 4, **body})
        need(status == 400, f"{body}: {status} {text}")
        e = json.loads(text)["error"]
        need(e["param"] == param and e["message"], f"{body}: {e}, not {param}")

    def metric(self, name):
        with urllib.request.urlopen(self.url + "metrics", timeout=60) as a:
            found = re.findall(rf"(?m)^{name}(?:\{{[^}}]*\}})? (\S+)$", a.read().decode())
        need(found, f"/metrics has no {name}")
        return sum(map(float, found))


def receipts(answer, i=0):
    return answer["choices"][i]["weir"]["tokens"]


def whys(answer):
    return {t["why"] for t in receipts(answer)}


def rules_of_acceptance(c):
    large = {"greedy": c.text({"mode": "large"}), "drawn": c.text({"mode": "large"}, temperature=0.9, seed=11)}
    # lossless whatever the draft is made of
    for more in ({}, {"window": 1}, {"window": 9}, {"gate": "margin", "threshold": 0.2}):
        need(c.text({"mode": "speculate", "accept": "own", **more}) == large["greedy"], f"own with {more} is not the large model's")
        need(c.text({"mode": "speculate", "accept": "own", **more}, temperature=0.9, seed=11) == large["drawn"], f"own with {more}, drawn")
        need(c.text({"mode": "speculate", "accept": "ratio", **more}) == large["greedy"], f"ratio with {more}, greedy")
    a = c.ask({"mode": "speculate", "accept": "ratio", "window": 6}, temperature=0.9, seed=11)
    need(whys(a) <= {"kept", "replaced", "window", "deferred"} and a["usage"]["weir"]["mode"] == "speculate", f"ratio: {whys(a)}")
    # alpha 1 keeps every draft and 0 wants the likeliest; epsilon 0 keeps all
    small = c.text({"mode": "small"})
    for weir in ({"accept": "v3", "accept_alpha": 1}, {"accept": "typical", "accept_epsilon": 0, "accept_delta": 0}):
        a = c.ask({"mode": "speculate", "window": 5, "threshold": "inf", **weir})
        need(a["usage"]["weir"]["refused"] == 0, f"{weir}: {a['usage']['weir']}")
        told = [t["tier"] for t in receipts(a)]
        need(told[:5] == [SMALL] * 5 and told[5] == LARGE, f"{weir}: {told}")
        need(small.startswith("".join(t["text"] for t in receipts(a)[:5])), f"{weir}: {a['choices'][0]['text']!r}, of {small!r}")
    strict = c.ask({"mode": "speculate", "accept": "v3", "accept_alpha": 0})
    need(strict["choices"][0]["text"] == large["greedy"], "v3 that keeps the likeliest alone")
    # a longer window: fewer steps of the large model where all is kept
    steps = [c.ask({"mode": "speculate", "accept": "v3", "accept_alpha": 1, "threshold": "inf", "window": w})["usage"]["weir"]["steps_by_tier"][LARGE] for w in (2, 8)]
    need(steps[0] > 2 * steps[1], f"steps with window 2 and 8: {steps}")
    c.text({"mode": "speculate", "accept": "v2", "horizon": 3})


def routes(c):
    ends = {}
    for share in (0, 1):
        a = c.ask({"mode": "route", "route_share": share})
        u = a["usage"]["weir"]
        ends[u["routed"]] = a
        need(u["routed"] in (SMALL, LARGE) and (share == 1 or 0 <= u["route_score"] <= 1), f"route: {u}")
        need({t["tier"] for t in receipts(a)} == {u["routed"]}, f"one author: {whys(a)}")
        need(a["choices"][0]["text"] == c.text({"mode": u["routed"]}), f"routed to {u['routed']}: another text")
    need(set(ends) == {SMALL, LARGE}, f"both outcomes: {set(ends)}")
    need(whys(ends[LARGE]) == {"routed"} and "routed" not in whys(ends[SMALL]), f"why: {whys(ends[LARGE])}, {whys(ends[SMALL])}")
    a = c.ask({"mode": "route", "route_after": 6, "route_share": 0, "entropy": 0})
    need(a["usage"]["weir"]["routed"] == LARGE and a["choices"][0]["text"] == c.text({"mode": "large"}), f"after 6: {a['usage']['weir']}")
    a = c.ask({"mode": "route", "route_after": "end", "route_share": 1})
    need(a["usage"]["weir"]["routed"] == SMALL and a["choices"][0]["text"] == c.text({"mode": "small"}), f"end: {a['usage']['weir']}")


def floors_of_quality(c):
    for more in ({}, {"temperature": 0.8, "seed": 3}):
        need(c.text({"mode": "auto", "quality": "exact"}, **more) == c.text({"mode": "large"}, **more), f"auto, exact, {more}")
    for quality in ("near", "any"):
        need(c.ask({"mode": "auto", "quality": quality})["usage"]["weir"]["mode"] == "auto", quality)


def choices(c):
    for mode in ("small", "large", "defer", "exact", "rollback", "speculate", "route", "auto"):
        for more in ({}, {"temperature": 1, "seed": 5}):
            a = c.ask({"mode": mode}, PROMPT, guided_choice=CHOICES, **more)
            text = a["choices"][0]["text"]
            need(text in CHOICES and a["choices"][0]["finish_reason"] == "stop", f"{mode}: {a['choices'][0]}")
            need(c.streamed({"mode": mode}, PROMPT, guided_choice=CHOICES, **more) == text, f"{mode}: streamed otherwise")
            # the first token says which it is, but for 445: what is left follows by itself
            forced = sum(t["why"] == "forced" for t in receipts(a))
            need(forced == a["usage"]["weir"].get("forced", 0), f"{mode}: {forced} forced, {a['usage']['weir']}")
            need(forced > 0 or text.startswith("445"), f"{mode}: none was forced of {text}")
    need(c.text({}, prompt=PROMPT, guided_choice=["only this"]) == "only this", "a choice of one")
    a = c.ask({}, PROMPT, guided_choice=CHOICES, n=4, temperature=1.5, seed=1)
    need(len(a["choices"]) == 4 and all(x["text"] in CHOICES for x in a["choices"]), f"n: {a['choices']}")
    # one that cannot be written whole is no choice
    c.refused({"prompt": PROMPT, "guided_choice": CHOICES, "max_tokens": 1}, "guided_choice")
    c.refused({"prompt": PROMPT, "guided_choice": CHOICES, "max_tokens": 1, "stream": True}, "guided_choice")
    c.ask({"pin": True}, PROMPT, guided_choice=CHOICES)
    # what says where else an answer ends is refused beside them
    c.refused({"guided_choice": CHOICES, "stop": ["4"]}, "guided_choice")
    c.refused({"guided_choice": CHOICES, "ignore_eos": True}, "guided_choice")
    c.refused({"guided_choice": CHOICES, "min_tokens": 2}, "guided_choice")


def spans(c):
    plain = c.ask({"mode": "defer", "entropy": 1.5})
    need({t["tau"] for t in receipts(plain)} == {1.5}, "the threshold is the request's")
    text = plain["choices"][0]["text"]
    mark = text[len(text) // 3:len(text) // 3 + 3]
    a = c.ask({"mode": "defer", "entropy": 1.5, "spans": [{"start": mark, "threshold": 5, "end": None}]})
    taus = [t["tau"] for t in receipts(a)]
    turn = taus.index(5)
    need(turn > 0 and set(taus[:turn]) == {1.5} and set(taus[turn:]) == {5}, f"a span from {mark!r}: {taus}")
    a = c.ask({"mode": "defer", "entropy": 1.5, "spans": [{"start": mark, "threshold": -1}]})
    taus = [t["tau"] for t in receipts(a)]
    turn = taus.index(-1)
    need({t["tier"] for t in receipts(a)[turn:]} == {LARGE}, f"below 0 the large model writes: {receipts(a)[turn:]}")
    c.refused({"weir": {"mode": "small", "spans": [{"start": "a", "threshold": 1}]}}, "weir.spans")


def fusion_and_waits(c):
    more = {"temperature": 0.9, "seed": 21}
    plain = c.text({"mode": "defer", "entropy": 0.3}, **more)
    need(c.text({"mode": "defer", "entropy": 0.3, "fusion_weight": 0}, **more) == plain, "fusion 0 is another text")
    need(any(c.text({"mode": "defer", "entropy": 0.1, "fusion_weight": 4}, temperature=0.9, seed=s) !=
             c.text({"mode": "defer", "entropy": 0.1}, temperature=0.9, seed=s) for s in range(4)), "fusion 4 does nothing")
    a = c.ask({"mode": "defer", "entropy": 0.3, "defer_wait": 60000})
    need(a["choices"][0]["text"] == c.text({"mode": "defer", "entropy": 0.3}) and "given_up" not in a["usage"]["weir"], "a wait that is not over")


def refusals(c):
    for weir, param in (({"windw": 3}, "weir.windw"), ({"mode": "speculate", "accept": "best"}, "weir.accept"),
                        ({"mode": "defer", "window": 3}, "weir.window"), ({"mode": "defer", "accept": "v1"}, "weir.accept"),
                        ({"mode": "exact", "horizon": 2}, "weir.horizon"), ({"mode": "speculate", "accept": "ratio", "accept_alpha": 0.5}, "weir.accept_alpha"),
                        ({"mode": "speculate", "window": 0}, "weir.window"), ({"mode": "speculate", "window": 2.5}, "weir.window"),
                        ({"mode": "speculate", "window": True}, "weir.window"), ({"mode": "speculate", "accept_alpha": 7}, "weir.accept_alpha"),
                        ({"mode": "defer", "route_share": 0.5}, "weir.route_share"), ({"mode": "route", "route_share": 2}, "weir.route_share"),
                        ({"mode": "route", "route_share": 0.5, "defer_rate": 0.1}, "weir.route_share"),
                        ({"mode": "defer", "quality": "exact"}, "weir.quality"), ({"mode": "auto", "quality": "best"}, "weir.quality"),
                        ({"mode": "exact", "defer_wait": 5}, "weir.defer_wait"), ({"mode": "large", "fusion_weight": 1}, "weir.fusion_weight"),
                        ({"mode": "defer", "gate": "head"}, "weir.gate"), ({"mode": "defer", "gate": "isotonic"}, "weir.gate"),
                        ({"mode": "defer", "entropy": 1, "threshold": 1}, "weir.entropy"), ({"mode": "defer", "threshold": "nan"}, "weir.threshold"),
                        ({"mode": "defer", "threshold": 1, "defer_rate": 0.5}, "weir.threshold"), ({"pin": True, "window": 3}, "weir.window"),
                        ({"mode": "auto", "spans": [{"start": "a", "threshold": 1}]}, "weir.spans"), ({"mode": "guess"}, "weir.mode")):
        c.refused({"weir": weir}, param)


def costs(c):
    """Against a count by hand: a model of one's own reads its weights once a step; the steps are told beside it."""
    one = c.ask({"mode": "small"})["usage"]["weir"]
    large = c.ask({"mode": "large"})["usage"]["weir"]
    per_step = {t: u["cost"]["weight_bytes"][t] / u["steps_by_tier"][t] for t, u in ((SMALL, one), (LARGE, large))}
    need(one["cost"]["flops"][LARGE] == 0 and large["cost"]["flops"][SMALL] == 0, f"who did nothing costs nothing: {one} {large}")
    need(one["cost"]["weight_bytes"][LARGE] == 0 and one["cost"]["kv_bytes_peak"][LARGE] == 0, f"likewise: {one}")
    need(per_step[LARGE] > per_step[SMALL] > 1e5, f"bytes of weights a step: {per_step}")
    need(one["steps_by_tier"][SMALL] == large["steps_by_tier"][LARGE] == 24, f"steps: {one} {large}")
    # the large model alone, measured, is what the others are held against
    for u in (one, large):
        for what in ("flops", "weight_bytes"):
            got, want = u["cost"]["large_only"][what], large["cost"][what][LARGE]
            need(abs(got - want) < 0.05 * want, f"{what} of the large model alone: told {got}, measured {want}")
    u = c.ask({"mode": "defer", "entropy": 0.6})["usage"]["weir"]
    for t in (SMALL, LARGE):
        want = u["steps_by_tier"][t] * per_step[t]
        need(abs(u["cost"]["weight_bytes"][t] - want) < 0.01 * want + 1, f"{t}: {u['cost']}, {u['steps_by_tier']} steps of {per_step}")
    many = c.ask({"mode": "large"}, n=2, seed=1)["usage"]["weir"]
    need(many["cost"]["flops"][LARGE] > 1.5 * large["cost"]["flops"][LARGE], f"two answers: {many['cost']}, one: {large['cost']}")


def pins(c):
    small = c.text({"mode": "small"})
    for mode in ("small", "large", "defer", "rollback", "exact", "speculate", "auto", "route"):
        if mode == "small":
            a = c.ask({"mode": mode, "pin": True})
            need(a["choices"][0]["text"] == small and a["usage"]["weir"]["mode"] == "small", f"pinned, {mode}: {a['usage']}")
        else:
            c.refused({"weir": {"mode": mode, "pin": True}}, "weir.pin")
    a = c.ask({"pin": True})
    need(a["choices"][0]["text"] == small and a["usage"]["weir"]["tokens_by_tier"][LARGE] == 0, f"pinned: {a['usage']}")
    need(a["usage"]["weir"]["steps_by_tier"][LARGE] == 0 and a["usage"]["weir"]["cost"]["flops"][LARGE] == 0, f"pinned: {a['usage']}")
    need(c.metric("weir:pinned_large_rows_total") == 0, "rows of pinned requests reached the large model")


def main():
    program = sys.argv[1]
    if served.missing(program):
        served.skip("settings_test", served.missing(program))
    server = served.Server(program, ["--mode", "defer"])
    try:
        for test in (rules_of_acceptance, routes, floors_of_quality, choices, spans, fusion_and_waits, refusals, costs, pins):
            test(Client(server.url))
            print("ok    ", test.__name__, flush=True)
        need(server.stop() == 0, "exit status")
    except BaseException:
        print(server.said() if os.path.exists(server.log) else "", flush=True)
        raise
    finally:
        server.stop()


if __name__ == "__main__":
    main()
