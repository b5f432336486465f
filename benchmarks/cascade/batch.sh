#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# At which batch does a cascade stop paying? Tokens a second of the small model, the large model, exact, defer and
# speculate at batch 1, 2, 4 .. 32, each batch in one run of `weir eval`, and for every mode the batch from which on the
# large model alone is faster.
#
# usage: benchmarks/cascade/batch.sh [options] [-- options of weir eval]
#   --build DIR     of weir (default build/release): target weir
#   --tasks FILE    (default models/tasks-test.jsonl)   --limit N   only the first N tasks (default 64)
#   --batches A,B.. (default 1,2,4,8,16,32)
#   --modes A,B..   (default defer,exact,speculate)
#   --rounds N      all batches so many times, the fastest of each counts (default 3): noise only ever adds
#   --budget S      starts nothing that would not end in so many seconds (default 600); exit status 75 when something
#                   is left, and the same command goes on where it was ended
#   --out FILE      the table (default batch.md); what was measured is kept beside it, .json
#   --fresh         forget what is there
#   --rehearse      tiny sizes, and checks of this script's own sums: a test
# Behind --, for example: --small S.gguf --large L.gguf --entropy 0.5 --accept v3 --accept-alpha 0.3 --window 4
set -u
case ${1:-} in
  -h | --help) sed -n '3,19s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
python=$(command -v python3) || { echo "SKIP: no python3, which makes the table"; exit 77; }
exec "$python" "$(dirname "$0")/batch.py" "$@"
