# SPDX-License-Identifier: Apache-2.0
"""A table of what measure.py has taken: medians, ratios of medians with the least and the greatest of the rounds, and
shares of the machine's limits in the minute of each sample."""
from statistics import median

PEERS = ("llama.cpp", "ik_llama.cpp")


def number(x):
    if x is None:
        return "-"
    return "%.0f" % x if abs(x) >= 100 else "%.1f" % x if abs(x) >= 10 else "%.2f" % x


class Results:
    def __init__(self, data):
        self.data = data
        self.samples = {}
        for s in data["samples"]:
            if "values" in s:
                self.samples.setdefault((s["section"], s["model"], s["level"], s["engine"]), {})[s["round"]] = s

    def pairs(self, section):
        """Models and levels that the section has of weir, in the order of the samples."""
        seen = []
        for s in self.data["samples"]:
            if s["section"] == section and (s["model"], s["level"]) not in seen:
                seen.append((s["model"], s["level"]))
        return sorted(seen, key=lambda x: x[0])

    def rounds(self, section, model, level, engine):
        return self.samples.get((section, model, level, engine), {})

    def value(self, section, model, level, engine, key):
        v = [s["values"][key] for s in self.rounds(section, model, level, engine).values() if key in s["values"]]
        return median(v) if v else None

    def ratio(self, section, model, level, peer, key, lower_is_better=False):
        """weir to the peer, as text."""
        ours, theirs = (self.rounds(section, model, level, e) for e in ("weir", peer))
        a, b = (self.value(section, model, level, e, key) for e in ("weir", peer))
        if not a or not b:
            return "-"
        each = [ours[r]["values"][key] / theirs[r]["values"][key] for r in ours if r in theirs and key in ours[r]["values"]
                and theirs[r]["values"].get(key)]
        of = a / b
        if lower_is_better:
            each, of = [1 / x for x in each], 1 / of
        spread = " (%.2f-%.2f)" % (min(each), max(each)) if len(each) > 1 else ""
        return "**%.2f**%s" % (of, spread)

    def limit(self, s, name):
        """Of a sample's minute: "read", or a peak by its name; a second; None where the machine has no such thing."""
        at = s.get("limits")
        if at is None or at >= len(self.data["limits"]):
            return None
        row = self.data["limits"][at]
        if name == "read" or name == "copy":
            return row[name + "_gb_s"] * 1e9
        return next((p["gop_s"] * 1e9 for p in row["peaks"] if p["name"] == name), None)

    def share(self, section, model, level, engine, name, work):
        """Median of work(values) a second of the limit."""
        out = []
        for s in self.rounds(section, model, level, engine).values():
            most, done = self.limit(s, name), work(s["values"])
            if most and done:
                out.append(done / most)
        return "%.2f" % median(out) if out else "-"

    def disturbed(self):
        return sum(1 for s in self.data["samples"] if s.get("disturbed")), len(self.data["samples"])


def rows(title, head, body, note=""):
    if not body:
        return ""
    return "\n## %s\n\n%s| %s |\n|%s\n%s\n" % (title, note + "\n\n" if note else "", " | ".join(head), "---|" * len(head),
                                               "\n".join("| %s |" % " | ".join(r) for r in body))


def against(r, section, model, level, key):
    cells = [number(r.value(section, model, level, "weir", key))]
    for p in PEERS:
        cells += [number(r.value(section, model, level, p, key)), r.ratio(section, model, level, p, key)]
    return cells


HEAD = ["weir, tok/s", "llama.cpp", "ratio", "ik_llama.cpp", "ratio"]


def prefill(r):
    body = []
    for model, level in r.pairs("prefill"):
        flops = r.data["models"][model]["flops_prefill"]
        shares = [r.share("prefill", model, level, "weir", peak, lambda v: v["tok_s"] * flops / 512)
                  for peak in ("i8 avx512-vnni", "i8 amx")]
        body.append([model, level] + against(r, "prefill", model, level, "tok_s") + shares)
    return rows("Prefill of 512", ["model", "level"] + HEAD + ["of the VNNI peak", "of the AMX peak"], body)


def decode(r):
    body = []
    for model, level in r.pairs("decode"):
        size = r.data["models"][model]["step_bytes"]
        rate = r.value("decode", model, level, "weir", "tok_s")
        body.append([model, level] + against(r, "decode", model, level, "tok_s") +
                    [number(rate * size / 1e9 if rate else None),
                     r.share("decode", model, level, "weir", "read", lambda v: v["tok_s"] * size)])
    return rows("Decode, one sequence", ["model", "level"] + HEAD + ["GB/s of weights", "of read bandwidth"], body)


def batch(r):
    body = []
    for model, level in r.pairs("batch"):
        keys = sorted({k for s in r.rounds("batch", model, level, "weir").values() for k in s["values"]}, key=lambda k: int(k[1:]))
        for k in keys:
            body.append([model, level, k[1:]] + against(r, "batch", model, level, k))
    return rows("Decode, many sequences", ["model", "level", "sequences"] + HEAD, body)


def context(r):
    body = []
    for model, level in r.pairs("context"):
        m, depth = r.data["models"][model], r.value("context", model, level, "weir", "context") or 0
        size = m["step_bytes"] + m["kv_bytes_per_token"] * depth
        body.append([model, level, "%d" % depth] + against(r, "context", model, level, "tok_s") +
                    [r.share("context", model, level, "weir", "read", lambda v: v["tok_s"] * size)])
    return rows("Decode behind a context", ["model", "level", "context"] + HEAD + ["of read bandwidth"], body)


def catch_up(r):
    body = []
    for model, level in r.pairs("catch-up"):
        m = r.data["models"][model]
        taken = r.rounds("catch-up", model, level, "weir").values()
        one = r.value("catch-up", model, level, "weir", "rows1_us")
        for k in sorted({k for s in taken for k in s["values"]}, key=lambda k: int(k[4:-3])):
            n, us, least = k[4:-3], r.value("catch-up", model, level, "weir", k), []
            for s in taken:
                read, peak = r.limit(s, "read"), r.limit(s, "i8 avx512-vnni")
                floor = max(m["step_bytes"] / read if read else 0, m["flops_rows"].get(n, 0) / (0.55 * peak) if peak else 0)
                if floor and k in s["values"]:
                    least.append(s["values"][k] / 1e6 / floor)
            body.append([model, level, n, number(us), number(us / one) if one else "-", number(median(least)) if least else "-"])
    return rows("Catch-up: rows fed at once behind 256 tokens", ["model", "level", "rows", "us", "to a step of one", "to the limit"], body,
                "The limit is the longer of reading the weights once and the products at 0.55 of the VNNI peak.")


def start(r):
    body = []
    for model, level in r.pairs("start"):
        m = r.data["models"][model]
        s = next(iter(r.rounds("start", model, level, "weir").values()), None)
        read, copy = (r.limit(s, "read"), r.limit(s, "copy")) if s else (None, None)
        floor = 2 * m["weight_bytes"] / copy + m["step_bytes"] / read if read and copy else None
        for e in ("weir", "llama.cpp"):
            t, rss = (r.value("start", model, level, e, k) for k in ("first_token_s", "rss_bytes"))
            if t:
                body.append([model, e, number(t), number(floor), number(t / floor) if floor else "-", number(rss / 1e6),
                             number(rss / m["weight_bytes"])])
    return rows("From start to the first token", ["model", "engine", "s", "limit, s", "to the limit", "peak memory, MB", "to the weights"],
                body, "Warm page cache, five tokens of prompt. The limit: every weight read and written once, and read once more. Pages of a "
                "mapped file count as memory of the process while it has them.")


def instructions(r):
    body = []
    for what in ("decode", "prefill"):
        section = "instructions-" + what
        for model, level in r.pairs(section):
            counts = [r.value(section, model, level, e, what) for e in ("weir", "llama.cpp")]
            body.append([model, what] + ["{:,.0f}".format(c) if c else "-" for c in counts] +
                        ["%.2f" % (counts[1] / counts[0]) if all(counts) else "-"])
    return rows("Instructions a token", ["model", "", "weir", "llama.cpp", "llama.cpp to weir"], body,
                "Counted by callgrind, one thread, both at AVX2; two runs of different length, so that what is done once falls out.")


def serve(r):
    body = []
    for section in sorted({s["section"] for s in r.data["samples"] if s["section"].startswith("serve-")}, key=lambda x: int(x[6:])):
        n = section[6:]
        speed, first = "c%s_tok_s" % n, "c%s_ttft_ms" % n
        for model, level in r.pairs(section):
            engines = ("weir", "llama.cpp", "weir nanomsg")
            body.append([model, n] + [number(r.value(section, model, level, e, speed)) for e in engines] +
                        [r.ratio(section, model, level, "llama.cpp", speed)] +
                        [number(r.value(section, model, level, e, first)) for e in engines])
    return rows("Serving", ["model", "clients", "weir HTTP, tok/s", "llama-server", "weir nanomsg", "ratio over HTTP", "first token, ms: weir",
                            "llama-server", "weir nanomsg"], body)


def limits(r):
    if not r.data["limits"]:
        return ""

    def span(values):
        values = [v for v in values if v is not None]
        return "%s (%s-%s)" % (number(median(values)), number(min(values)), number(max(values))) if values else "-"
    all_rows = r.data["limits"]
    body = [["read, GB/s", span([x["read_gb_s"] for x in all_rows])], ["copy, GB/s, read and written", span([x["copy_gb_s"] for x in all_rows])],
            ["clock, GHz", span([x["clock_ghz"] for x in all_rows])]]
    for p in all_rows[-1]["peaks"]:
        body.append([p["name"] + ", GOP/s", span([next((q["gop_s"] for q in x["peaks"] if q["name"] == p["name"]), None) for x in all_rows])])
    body.append(["fork and join beside work, us", span([x["fork_join_us"]["work"] for x in all_rows])])
    return rows("Limits", ["", "median (least-greatest)"], body, "%d times `limits`, less than a minute before each sample." % len(all_rows))


def commands(r):
    seen = {}
    for s in r.data["samples"]:
        if "command" in s:
            seen.setdefault((s["section"], s["engine"]), s["command"])
    if not seen:
        return ""
    return "\n## Commands\n\nOf each section and engine one.\n\n```\n%s\n```\n" % "\n".join(
        "%s, %s: %s" % (section, engine, c) for (section, engine), c in sorted(seen.items()))


def table(data):
    r = Results(data)
    noisy, all_of_them = r.disturbed()
    failed = [s for s in data["samples"] if "error" in s]
    machine = data.get("machine", {})
    cpu = data["limits"][-1]["cpu"] if data["limits"] else "unknown processor"
    dates = sorted(s["date"] for s in data["samples"])
    text = "# CPU: weir beside llama.cpp\n\nWritten by `benchmarks/cpu/run.sh`; everything is in the JSON file beside this one.\n\n"
    text += "- %s, %s cores, %.0f GiB; %s threads; %s\n" % (cpu, machine.get("cores"), machine.get("memory_bytes", 0) / 2 ** 30,
                                                            machine.get("threads"), machine.get("system"))
    if dates:
        text += "- %s to %s\n" % (dates[0], dates[-1])
    for name, version in sorted(data.get("versions", {}).items()):
        text += "- %s: %s\n" % (name, version)
    text += "- Engines in turn; medians of %s rounds, ratios of medians with the least and the greatest of the rounds. A ratio above one " \
            "is weir's.\n" % data.get("rounds", "?")
    text += "- %d of %d samples stayed disturbed by other programs%s.\n" % (
        noisy, all_of_them, "; %d failed: %s" % (len(failed), "; ".join(sorted({"%s %s: %s" % (s["section"], s["engine"], s["error"])
                                                                               for s in failed}))) if failed else "")
    for section in prefill, decode, batch, catch_up, context, start, instructions, serve, limits, commands:
        text += section(r)
    return text
