#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# weir beside llama.cpp on this machine's CPU: the same files, the same number of threads, in turn (weir, peer, weir,
# peer, ...), each figure with the limits of the machine in the same minute. Builds nothing and starts no network.
#
# usage: benchmarks/cpu/run.sh PEER_BIN [options]
#        benchmarks/cpu/run.sh --rehearse [--build DIR]
#   PEER_BIN          folder with llama-bench, llama-batched-bench and their libraries; "none" for weir alone
#   --models PATH     a GGUF file, or a folder of them; may be repeated
#   --build DIR       of weir (default build/release): targets bench_step, limits, weir (for --serve weir-bench too)
#   --ik PATH         the same programs of ik_llama.cpp
#   --isa LEVEL=PATH  a further build of llama.cpp, which weir forced to that level (avx2, avx512-vnni, ...) is held
#                     against; may be repeated
#   --only A,B,...    prefill, decode, batch, catch-up, context, start, instructions (default: all these), serve
#   --level A,B,...   only these of "best" and the levels of --isa
#   --serve           serve too: weir serve and llama-server under weir-bench
#   --threads N       (default 2)       --rounds N     of each engine (default 3)
#   --context N       tokens before the decoded ones in the section of that name (default 8192, or what a model has)
#   --out FILE        the results (default benchmarks/results/cpu-DATE.json); the table goes beside it, .md
#   --budget S        starts nothing that would not end in so many seconds; exit status 75 when something is left
#   --max-load X      share of the cores that other programs may take before a sample is repeated (default 0.05)
#   --fresh           forget what FILE has of the chosen sections; else samples that it has are not taken again
#   --table           only writes the table anew
#   --rehearse        the same steps in tiny sizes, on tiny models, without a peer: a test of this script
# Every sample is in FILE as soon as it is taken: the same command goes on where it was ended.
# Exit status: 0; 1 when a sample failed; 2 for wrong usage; 75 when the budget is spent; 77 without python3.
set -u
cd "$(dirname "$0")/../.." || exit 1
here=benchmarks/cpu
case ${1:-} in
  -h | --help) sed -n '3,31s/^# \{0,1\}//p' "$here/run.sh"; exit 0 ;;
  '') sed -n '6,7s/^# \{0,1\}//p' "$here/run.sh" >&2; exit 2 ;;
esac
python=$(command -v python3) || { echo "SKIP: no python3, which takes the samples"; exit 77; }
exec "$python" "$here/measure.py" "$@"
