#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Synthetic tasks with written working, deterministic for a seed.

    gen_tasks.py --split test --per-cell 15 > tasks-test.jsonl

Eight tasks, four levels. In a completion the words of the template are easy
tokens and the computed or copied ones hard. A line of output is a JSON object:
    task, level     which one, 0 (easy) to 3
    prompt          ends with "Answer:", without a space behind it
    answer          the expected answer
    match           regular expression: the last group of its last match in a
                    completion is the model's answer
    completion      only with --completions: the whole reference text

Which split a prompt belongs to is a function of the prompt alone (a hash), so
training can never see a prompt of valid or test, whatever the seeds.
"""
import argparse
import collections
import datetime
import hashlib
import json
import random

NAMES = "Ann Ben Cara Dan Eve Finn Gus Hana Ivan June Kofi Lena Max Nora Omar Pia Quinn Rosa Sam Tess".split()
THINGS = "apples coins books pencils stones cards shells stamps marbles buttons".split()
CITIES = "Rome Oslo Lima Cairo Kyoto Paris".split()
WORDS = ("river moon garden bread silver window horse candle green winter letter stone bird water "
         "forest king paper summer house table road night flower sugar hill snow boat door tree fire").split()
UNITS = (("feet", "inches", 12), ("hours", "minutes", 60), ("minutes", "seconds", 60), ("pounds", "ounces", 16),
         ("yards", "feet", 3), ("days", "hours", 24), ("weeks", "days", 7), ("kilometres", "metres", 1000))


# Each task: (random source, level) -> (question, completion, answer).

def arith(r, level):
    number = lambda: r.randint(2, 9) if level == 0 else r.randint(10, 99) if level < 3 else r.randint(100, 999)
    v = number()
    expr, steps = str(v), []
    for _ in range(1 + level):
        op = r.choice("+-" if level < 2 else "+-*")
        b = r.randint(2, 9) if op == "*" else number()
        if (op == "-" and b > v) or (op == "*" and v > 999):
            op = "+"
        w = v + b if op == "+" else v - b if op == "-" else v * b
        steps.append(f"{v} {op} {b} = {w}")
        expr += f" {op} {b}"
        v = w
    return f"Work out step by step, left to right: {expr}", "; ".join(steps) + f". The answer is {v}.", str(v)


def story(r, level):
    a, b = r.sample(NAMES, 2)
    o, top = r.choice(THINGS), (20, 60, 200, 900)[level]
    v = r.randint(3, top)
    start, text, steps = v, f"{a} has {v} {o}.", []
    for _ in range(1 + level):
        kind, m = r.randint(0, 3 if level else 1), r.randint(2, max(3, top // 3))
        divisors = [x for x in (2, 3, 4, 5) if v % x == 0]
        if kind == 0 or (kind == 3 and not divisors):
            text += f" {b} gives {a} {m} more {o}."
            w, s = v + m, f"{v} + {m}"
        elif kind == 1:
            m = min(m, v - 1) or 1
            text += f" {a} loses {m} {o}."
            w, s = v - m, f"{v} - {m}"
        elif kind == 2:
            m = r.randint(2, 5)
            text += f" Then {a} gets {m} times as many {o}."
            w, s = v * m, f"{v} * {m}"
        else:
            m = r.choice(divisors)
            text += f" {a} shares the {o} equally among {m} friends and keeps one share."
            w, s = v // m, f"{v} / {m}"
        steps.append(f" {s} = {w}.")
        v = w
        if v < 2:
            break
    return (text + f" How many {o} does {a} have now?",
            f"{a} starts with {start} {o}." + "".join(steps) + f" So {a} has {v} {o}.", str(v))


def date(r, level):
    d = datetime.date(2000, 1, 1) + datetime.timedelta(days=r.randrange(10958))
    k = r.randint(1, (6, 20, 60, 400)[level])
    w = d + datetime.timedelta(days=k)
    return (f"What date is {k} days after {d.isoformat()} ({d:%A})?",
            f"{k} days after {d.isoformat()} is {w.isoformat()}, which is a {w:%A}.", w.isoformat())


def units(r, level):
    big, small, k = r.choice(UNITS)
    a, b = r.randint(1, (9, 20, 99, 400)[level]), r.randint(0, k - 1) if level else 0
    v = a * k + b
    return (f"Convert {a} {big}" + (f" and {b} {small}" if b else "") + f" to {small}.",
            f"One of the {big} is {k} {small}. {a} * {k} = {a * k}." + (f" {a * k} + {b} = {v}." if b else "")
            + f" The result is {v} {small}.", str(v))


def sort(r, level):
    x, up = r.sample(range(1, (10, 50, 100, 1000)[level]), 3 + 2 * level), r.random() < .5
    y = ", ".join(map(str, sorted(x, reverse=not up)))
    return (f"Sort these numbers in {'ascending' if up else 'descending'} order: " + ", ".join(map(str, x)),
            f"Sorted: {y}.", y)


def copy(r, level):
    """Words and numbers to be said again: the plainest use of attention."""
    x = ", ".join(r.choice(WORDS) if r.random() < .6 else str(r.randint(0, 999)) for _ in range(3 + 3 * level))
    return f"Repeat exactly: {x}", f"Copy: {x}.", x


def lookup(r, level):
    """One value of a short list of keys."""
    keys = r.sample(r.choice((NAMES, WORDS)), 2 + 3 * level)
    pairs = [(k, str(r.randint(0, 999))) for k in keys]
    k, v = r.choice(pairs)
    form = r.choice(("%s = %s", "%s: %s", "%s -> %s"))
    return (", ".join(form % p for p in pairs) + f". Which number belongs to {k}?",
            f"{form % (k, v)}. The value is {v}.", v)


def table(r, level):
    """One cell of a table as JSON lines or with bars; the working quotes the row first."""
    fields = r.sample(("age", "city", "score"), r.randint(2, 3))
    draw = {"age": lambda: r.randint(6, 90), "city": lambda: r.choice(CITIES), "score": lambda: r.randint(0, 999)}
    rows = [{"name": n, **{f: draw[f]() for f in fields}} for n in r.sample(NAMES, 2 + (0, 1, 3, 5)[level])]
    q, f = r.choice(rows), r.choice(fields)
    if r.random() < .6:
        show, head = json.dumps, ""
    else:
        show, head = lambda row: " | ".join(str(v) for v in row.values()), " | ".join(["name", *fields]) + "\n"
    return ("Table:\n" + head + "\n".join(map(show, rows)) + f"\nWhat is the {f} of {q['name']}?",
            f"{show(q)}. The {f} of {q['name']} is {q[f]}.", str(q[f]))


TASKS = {"arith": arith, "story": story, "date": date, "units": units, "sort": sort, "copy": copy,
         "lookup": lookup, "table": table}
MATCH = {"arith": r"The answer is (-?\d+)\.", "story": r"So \w+ has (\d+)", "date": r"is (\d{4}-\d\d-\d\d), which",
         "units": r"The result is (\d+)", "sort": r"Sorted: ([\d, ]+)\.", "copy": r"Copy: ([\w, ]+)\.",
         "lookup": r"The value is (\d+)\.", "table": r"The \w+ of \w+ is (\w+)\."}

Item = collections.namedtuple("Item", "task level prompt completion answer")


def split_of(prompt):
    """"valid" and "test" get 5 % of all prompts each."""
    h = hashlib.md5(prompt.encode()).digest()[0]
    return "valid" if h < 13 else "test" if h < 26 else "train"


def generate(seed, split, weights=None):
    """Endless items of one split. Held-out prompts are distinct; a completion starts with a space."""
    r, seen, names = random.Random(seed), set(), list(TASKS)
    while True:
        task, level = r.choices(names, [(weights or {}).get(n, 1) for n in names])[0], r.randrange(4)
        question, completion, answer = TASKS[task](r, level)
        prompt = f"Question: {question}\nAnswer:"
        if split_of(prompt) != split or prompt in seen:
            continue
        if split != "train":
            seen.add(prompt)
        yield Item(task, level, prompt, " " + completion, answer)


def sample(seed, split, per_cell, tries=200_000):
    """Up to per_cell items of every task and level (level 0 has few distinct prompts), in order of drawing."""
    count, items = collections.Counter(), []
    for i, e in enumerate(generate(seed, split)):
        if len(items) == per_cell * 4 * len(TASKS) or i == tries:
            return items
        if count[e.task, e.level] < per_cell:
            count[e.task, e.level] += 1
            items.append(e)


def load(path):
    """Items of a file that main() wrote; the completion is empty where the file has none."""
    with open(path, encoding="utf8") as f:
        docs = [json.loads(line) for line in f]
    return [Item(e["task"], e["level"], e["prompt"], e.get("completion", ""), e["answer"]) for e in docs]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--split", choices=("train", "valid", "test"), default="valid")
    ap.add_argument("--per-cell", type=int, default=15, help="items of every task and level")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--completions", action="store_true")
    a = ap.parse_args()
    for e in sample(a.seed, a.split, a.per_cell):
        doc = {"task": e.task, "level": e.level, "prompt": e.prompt, "answer": e.answer, "match": MATCH[e.task]}
        print(json.dumps(doc | ({"completion": e.completion} if a.completions else {})))


if __name__ == "__main__":
    main()
