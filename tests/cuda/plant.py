#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plants bugs in kernels, one at a time, and asks the tests on the emulated device to notice.

    tests/cuda/plant.py BUILD [name ...]

BUILD is a Ninja build folder in which the table's test and its _race twin are built. Each bug is an edit of one
kernel file, compiled as the build compiles it and linked as the build links, out of the tree. A bug must be noticed by
the plain test or by the race detector; which of them, and the first line of what it said, is printed. Exits 1 when
one is not noticed, or an edit no longer fits its file."""
import os
import re
import shlex
import subprocess
import sys
import tempfile

TEST = "test_cuda_attend"
DECODE, ANY, MERGE = "attend_decode.cu", "attend_any.cu", "attend_merge.cu"
# name, file, what is there (and which of several, from 0), what is planted
BUGS = [
    ("decode: no wait for copies", DECODE, "    cu_cp_async_wait<ST - 2>();\n", 0, ""),
    ("decode: waits for a copy too few", DECODE, "cu_cp_async_wait<ST - 2>()", 0, "cu_cp_async_wait<ST - 1>()"),
    ("decode: no barrier between wait and use", DECODE, "    __syncwarp(); /*", 0, "    /*"),
    ("decode: sums over rings in use", DECODE, "    __syncthreads(); /* the rings are free */\n", 0, ""),
    ("decode: sums read before written", DECODE, "    __syncthreads();\n", 0, ""),
    ("decode: next item over sums in use", DECODE,
     "    __syncthreads(); /* before the next item's rings overwrite the sums */\n", 0, ""),
    ("decode: tail mask one too far", DECODE, "at <= s.last[h]", 0, "at <= s.last[h] + 1"),
    ("decode: tail mask one too near", DECODE, "at <= s.last[h]", 0, "at < s.last[h]"),
    ("decode: window one too wide", DECODE, "at >= s.from[h]", 0, "at >= s.from[h] - 1"),
    ("decode: copies behind the end", DECODE, " && t0 + r < t.end", 0, ""),
    ("decode: copies before the window", DECODE, "t0 + r >= t.first && ", 0, ""),
    ("decode: ring one block short", DECODE, "ring + j % ST * STAGE, start(j), s)", 0,
     "ring + j % (ST - 1) * STAGE, start(j), s)"),
    ("decode: sum not scaled down", DECODE, "s.l[h] * shrink + sum", 0, "s.l[h] + sum"),
    ("decode: low half of P lost", DECODE, "s.o[i][0] += s.o[i][2]", 0, "s.o[i][0] += 0.0f"),
    ("decode: large q not brought down", DECODE, "min(max(e, 1), 253)", 0, "min(max(e, 127), 127)"),
    ("decode: K not transposed", DECODE, "cu_ldmatrix_x4_trans(b, V", 0, "cu_ldmatrix_x4(b, V"),
    ("decode: pages looked up one late", DECODE, "now = next, next = find(j + 32)", 0, "next = find(j + 32)"),
    ("any: block overwritten while in use", ANY, "      __syncthreads(); /* before the next block overwrites this one */\n",
     0, ""),
    ("any: block used before it is there", ANY, "      __syncthreads();\n", 0, ""),
    ("any: weights read before written", ANY, "      __syncwarp();\n", 0, ""),
    ("any: tail mask one too far", ANY, "t0 + col <= last[j]", 0, "t0 + col <= last[j] + 1"),
    ("any: head of the wrong row", ANY, "shrink[r & 1], (r >> 1) * 16", 0, "shrink[r & 1], (r & 1) * 16"),
    ("merge: columns read before written", MERGE, "    __syncthreads();\n", 0, ""),
    ("merge: columns overwritten while read", MERGE, "    __syncthreads(); /* the last pass has been read */\n", 0, ""),
    ("merge: unwritten pieces are read", MERGE, "if (!(part.ml[at * 2 + 1] > 0.0f)) continue;", 0, ";"),
    ("merge: last piece forgotten", MERGE, "i < g.n_slots; i += MERGE_WARPS", 0, "i < g.n_slots - 1; i += MERGE_WARPS"),
]


def edited(text, old, nth, new):
    spots = [m.start() for m in re.finditer(re.escape(old), text)]
    if nth >= len(spots):
        return None
    return text[:spots[nth]] + new + text[spots[nth] + len(old):]


def commands(build, target):
    out = subprocess.run(["ninja", "-C", build, "-t", "commands", target], check=True, capture_output=True, text=True)
    return out.stdout.splitlines()


def steps(build, program, kernel):
    """How the build compiles the kernel for the program, with what object, and how it links the program."""
    lines = commands(build, program)
    objects = "weir_cuda_emu_race.dir" if program.endswith("_race") else "weir_cuda_emu_kernels.dir"
    compile_line = next(line for line in lines if objects in line and line.endswith("/kernels/cuda/" + kernel))
    obj = re.search(r" -o (\S+)", compile_line).group(1)
    link = re.search(r"(?:&& )?(\S*c\+\+.*? -o \S*" + program + r" .*?)(?: && :)?$", lines[-1]).group(1)
    return compile_line, obj, link


def planted(build, scratch, program, kernel, text):
    """The program with that text for its kernel: its first complaint, None when content, or why it was not built."""
    compile_line, obj, link = steps(build, program, kernel)
    src, new_obj, exe = (os.path.join(scratch, n) for n in (kernel, "planted.o", "planted"))
    with open(src, "w", encoding="utf-8") as f:
        f.write(text)
    compile_args = shlex.split(compile_line)
    compile_args[-1] = src
    compile_args[compile_args.index("-o") + 1] = new_obj
    link_args = [new_obj if a == obj else a for a in shlex.split(link)]
    link_args[link_args.index("-o") + 1] = exe
    for args in (compile_args, link_args):
        done = subprocess.run(args, cwd=build, capture_output=True, text=True)
        if done.returncode:
            return "not built: " + done.stderr.strip()[:200]
    env = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")
    try:
        done = subprocess.run([exe], cwd=build, env=env, capture_output=True, text=True, errors="replace", timeout=300)
    except subprocess.TimeoutExpired:
        return "did not end"
    if done.returncode == 0:
        return None
    said = [line for line in (done.stderr + done.stdout).splitlines()
            if re.search(r"wrong by|race|emu|ERROR|error", line)]
    return said[0].strip() if said else "exit %d" % done.returncode


def main():
    build, wanted = os.path.abspath(sys.argv[1]), sys.argv[2:]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    missed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, kernel, old, nth, new in BUGS:
            if wanted and not any(w in name for w in wanted):
                continue
            with open(os.path.join(root, "kernels/cuda", kernel), encoding="utf-8") as f:
                text = edited(f.read(), old, nth, new)
            said, by = (None, "") if text else ("no longer fits " + kernel, "")
            for program in (TEST, TEST + "_race") if text else ():
                said = planted(build, scratch, program, kernel, text)
                if said:
                    by = program
                    break
            bad = said is None or not text or said.startswith("not built")
            missed += bad
            print("%-42s %-9s %s: %s" % (name, "MISSED" if bad else "noticed", by, (said or "nothing")[:110]), flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
