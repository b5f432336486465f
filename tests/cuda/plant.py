#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plants bugs in kernels, one at a time, and asks the tests on the emulated device to notice.

    tests/cuda/plant.py BUILD GROUP [--seconds S] [--list] [text ...]

BUILD is a Ninja build folder with the tests of GROUP and, by WEIR_RACE_TESTS, their _race twins built. GROUP is a
group of plant_bugs.py, a kernel file (all that is planted in it), `tokens` (mutants of single tokens of one file), or
`all`. With text, only bugs in whose name one of them stands.

A bug is an edit of one kernel file. It is compiled out of the tree, by the build's command lines without debug
information and sanitizers, and linked with what the build has made of everything else. It must be noticed by the
plain test or else by the race detector; by whom, and the first line of what was said, is printed. Exits 1 when one is
not noticed, or one that is known to change nothing is; when an edit no longer fits its file, or does not compile; when
a test fails with nothing planted; when time runs out before all were tried."""
import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import plant_bugs  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KERNELS = os.path.join(ROOT, "kernels/cuda")


class Bug:
    def __init__(self, test, name, file, unit, text, why=None, may_not_build=False):
        self.test, self.name, self.file, self.unit = test, name, file, unit
        self.text = text  # of the file with the bug; None: the edit does not fit
        self.why = why  # reason for which it changes nothing
        self.may_not_build = may_not_build


def source(file):
    with open(os.path.join(KERNELS, file), encoding="utf-8") as f:
        return f.read()


def edited(text, old, nth, new):
    spots = [m.start() for m in re.finditer(re.escape(old), text)]
    if nth >= len(spots):
        return None
    return text[:spots[nth]] + new + text[spots[nth] + len(old):]


def named_bugs():
    """(group, Bug) of every row of the tables."""
    for group, (test, rows) in plant_bugs.GROUPS.items():
        for name, file, old, nth, new in rows:
            unit = plant_bugs.UNIT_OF.get(file, file)
            yield group, Bug(test, name, file, unit, edited(source(file), old, nth, new), plant_bugs.SAME.get(name))


def token_bugs():
    file, test, text = plant_bugs.TOKENS_OF, plant_bugs.TOKENS_TEST, source(plant_bugs.TOKENS_OF)
    reasons = dict(plant_bugs.TOKENS_SAME)
    for pattern, new in plant_bugs.TOKENS:
        spots = [m for m in re.finditer(pattern, text)]
        if not spots:
            yield Bug(test, "token %s" % pattern, file, file, None)
        for m in spots:
            line = text[:m.start()].count("\n")
            begin = text.rfind("\n", 0, m.start()) + 1
            where = text.split("\n")[line].strip()
            key = (where, m.start() - begin - (len(text.split("\n")[line]) - len(text.split("\n")[line].lstrip())), new)
            name = "%d:%d %s -> %s" % (line + 1, key[1], m.group(), new or "nothing")
            yield Bug(test, name, file, file, text[:m.start()] + new + text[m.end():], reasons.pop(key, None), True)
    for key in reasons:
        yield Bug(test, "token known to change nothing: %s" % (key,), file, file, None)


class Builder:
    """Compiles and links as the build does."""

    def __init__(self, build, scratch):
        self.build, self.scratch, self.commands = build, scratch, {}

    def steps(self, program, unit):
        """The command lines for the unit in the program, and of its link; which object they share."""
        if program not in self.commands:
            out = subprocess.run(["ninja", "-C", self.build, "-t", "commands", program], check=True, capture_output=True,
                                 text=True)
            self.commands[program] = out.stdout.splitlines()
        lines = self.commands[program]
        objects = "weir_cuda_emu_race.dir" if program.endswith("_race") else "weir_cuda_emu_kernels.dir"
        compile_line = next(line for line in lines if objects in line and line.endswith("/kernels/cuda/" + unit))
        obj = re.search(r" -o (\S+)", compile_line).group(1)
        link = re.search(r"(?:&& )?(\S*c\+\+.*? -o \S*" + program + r" .*?)(?: && :)?$", lines[-1]).group(1)
        return shlex.split(compile_line), obj, shlex.split(link)

    def make(self, program, bug):
        """The program with the bug; None and the reason when it was not built."""
        compile_args, obj, link_args = self.steps(program, bug.unit)
        tree = os.path.join(self.scratch, "tree/kernels/cuda")
        os.makedirs(tree, exist_ok=True)
        for left in os.listdir(tree):
            os.remove(os.path.join(tree, left))
        with open(os.path.join(tree, bug.file), "w", encoding="utf-8") as f:
            f.write(bug.text)
        src = os.path.join(tree, bug.unit) if bug.unit == bug.file else compile_args[-1]
        new_obj, exe = (os.path.join(self.scratch, n) for n in ("planted.o", "planted"))
        args, skip = [], 0
        race = program.endswith("_race")
        for a in compile_args[:-1]:
            if skip:
                skip -= 1
            elif a in ("-MT", "-MF", "-o"):
                skip = 1
            elif a not in ("-MD", "-Werror", "-c") and not re.match(r"-g\d?$|-O\d$", a):
                if race or not a.startswith("-f") or "sanitize" not in a:
                    args.append(a)
        # Flags first that must come before the tree's own folders.
        args += ["-O1", "-w", "-o", new_obj, "-c", src]
        at = next(i for i, a in enumerate(args) if a.startswith("-") and "=" not in a.split("-I")[0])
        args[at:at] = ["-I" + os.path.join(self.scratch, "tree")]
        done = subprocess.run(args, cwd=self.build, capture_output=True, text=True)
        if done.returncode:
            return None, "not built: " + " ".join(done.stderr.split())[:200]
        link_args = [new_obj if a == obj else a for a in link_args if not re.match(r"-g\d?$", a)]
        link_args[link_args.index("-o") + 1] = exe
        done = subprocess.run(link_args, cwd=self.build, capture_output=True, text=True)
        return (None, "not linked: " + " ".join(done.stderr.split())[:200]) if done.returncode else (exe, None)


def run(exe, seconds):
    """A test's first complaint; None when it has none."""
    env = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")
    try:
        done = subprocess.run([exe], cwd=ROOT, env=env, capture_output=True, text=True, errors="replace",
                              timeout=seconds)
    except subprocess.TimeoutExpired:
        return "did not end"
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines()]
    said = [line for line in lines if re.search(r"wrong by|race|emu|ERROR|error|differ|instead", line)]
    return said[0] if said else "exit %d" % done.returncode


class Trial:
    def __init__(self, build, scratch):
        self.builder, self.bound = Builder(build, scratch), {}

    def bound_of(self, test):
        """How long each program of a test may take: from what it takes with nothing planted."""
        for program in (test, test + "_race"):
            if program in self.bound:
                continue
            exe = os.path.join(self.builder.build, "tests/cuda", program)
            began = time.monotonic()
            said = run(exe, 600)
            if said:
                sys.exit("%s fails with nothing planted: %s" % (program, said))
            self.bound[program] = 30 + 5 * (time.monotonic() - began)

    def of(self, bug):
        """Who noticed, and what was said."""
        if bug.text is None:
            return "EDIT", "no longer fits " + bug.file
        self.bound_of(bug.test)
        for program in (bug.test, bug.test + "_race"):
            exe, said = self.builder.make(program, bug)
            if exe is None:
                return ("compiler" if bug.may_not_build else "EDIT"), said
            said = run(exe, self.bound[program])
            if said:
                return program, said
        return None, "nothing"


def verdict(bug, by):
    if by == "EDIT":
        return "MISFIT"
    if by is None:
        return "same" if bug.why else "MISSED"
    return "NOTICED" if bug.why else "noticed"


def chosen(group, texts):
    if group == "tokens":
        bugs = list(token_bugs())
    else:
        bugs = [b for g, b in named_bugs() if group in (g, "all") or b.file == group]
        if group == "all" or group == plant_bugs.TOKENS_OF:
            bugs += token_bugs()
    return [b for b in bugs if not texts or any(t in b.name for t in texts)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("group")
    parser.add_argument("text", nargs="*")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    bugs = chosen(args.group, args.text)
    if not bugs:
        sys.exit("nothing is planted in " + args.group)
    if args.list:
        for bug in bugs:
            print("%-9s %s: %s" % ("MISFIT" if bug.text is None else "", bug.test, bug.name))
        return 1 if any(bug.text is None for bug in bugs) else 0
    end, counts = time.monotonic() + args.seconds, {}
    with tempfile.TemporaryDirectory() as scratch:
        trial = Trial(os.path.abspath(args.build), scratch)
        for bug in bugs:
            if time.monotonic() > end:
                counts["NOT TRIED"] = len(bugs) - sum(counts.values())
                break
            by, said = trial.of(bug)
            word = verdict(bug, by)
            counts[word] = counts.get(word, 0) + 1
            print("%-46s %-8s %s: %s" % (bug.name, word, by or "nobody", (bug.why if word == "same" else said)[:110]),
                  flush=True)
    print(", ".join("%d %s" % (n, word) for word, n in sorted(counts.items())))
    return 1 if any(word.isupper() for word in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
