#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# One model served by weir beside another server that serves the same file on the same machine, in turn, with the same
# load: the ratio is what counts. The other server is started by you.
#
# usage: benchmarks/load/against.sh PEER_URL MODEL [--build DIR] [--concurrency "1 8 16"] [--input 128] [--output 64]
#          [--requests 30] [--repeat 3] [--duration 40] [--out DIR]
#   PEER_URL       an OpenAI-compatible server: llama-server -m MODEL -t 2 -np 16 -c 8192 --no-cache-prompt ...
#   MODEL          the file weir serves, alone (--mode large), with as many threads as it finds cores
#   --requests N   at one stream; four times as many at eight, six times beyond
#   --out DIR      where the reports of the runs are kept (default: a temporary folder, removed)
# Prints a table: output tokens a second, the best of the repeats of each (others on the machine only ever take), the
# median time to the first token of that run, and the ratio.
set -euo pipefail
cd "$(dirname "$0")/../.."

[ $# -ge 2 ] || { sed -n '6,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
peer=$1 model=$2
shift 2
build=build/release concurrency="1 8 16" input=128 output=64 requests=30 repeat=3 duration=40 out=
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || { echo "against: $1 needs a value" >&2; exit 2; }
  case $1 in
    --build) build=$2 ;;
    --concurrency) concurrency=$2 ;;
    --input) input=$2 ;;
    --output) output=$2 ;;
    --requests) requests=$2 ;;
    --repeat) repeat=$2 ;;
    --duration) duration=$2 ;;
    --out) out=$2 ;;
    *) echo "against: unknown argument $1" >&2; exit 2 ;;
  esac
  shift 2
done

tmp=$(mktemp -d)
pid=
finish() {
  [ -z "$pid" ] || { kill "$pid" 2> /dev/null || true; wait "$pid" 2> /dev/null || true; }
  rm -rf "$tmp"
}
trap finish EXIT
[ -n "$out" ] || out=$tmp/reports
mkdir -p "$out"

"$build/engine/programs/weir" serve --listen 127.0.0.1:0 --runtime-dir "$tmp" --ready-file "$tmp/ready" --large "$model" --mode large \
  --temperature 0 --prefix-cache 0 --gateway-arg --log-level=warning > "$tmp/log" 2>&1 &
pid=$!
for _ in $(seq 600); do
  [ ! -s "$tmp/ready" ] || break
  kill -0 "$pid" 2> /dev/null || { cat "$tmp/log" >&2; exit 1; }
  sleep 0.1
done
weir=$(sed -n 's/.*"http":"\([^"]*\)".*/\1/p' "$tmp/ready")
[ -n "$weir" ] || { echo "against: weir serve is not ready" >&2; cat "$tmp/log" >&2; exit 1; }

for rep in $(seq "$repeat"); do
  for c in $concurrency; do
    n=$((requests * (c > 8 ? 6 : c > 1 ? 4 : 1)))
    for who in weir peer; do
      url=$weir
      [ $who = weir ] || url=$peer
      # The seed changes with the repeat, so that no cache of prompts has seen them.
      "$build/benchmarks/load/weir-bench" -u "$url" -c "$c" -n $n -d "$duration" -i "$input" -o "$output" --ignore-eos -w 2 \
        --seed $((1000 * rep + c)) --json "$out/$who-$c-$rep.json" > /dev/null 2> "$tmp/err" || { cat "$tmp/err" >&2; exit 1; }
    done
  done
done

python3 - "$out" "$repeat" $concurrency << 'EOF'
import json, sys
out, repeat, loads = sys.argv[1], int(sys.argv[2]), sys.argv[3:]

def best(who, c):
    runs = []
    for rep in range(1, repeat + 1):
        with open(f"{out}/{who}-{c}-{rep}.json") as f:
            p = json.load(f)["points"][0]
        if p["requests"]["errors"]:
            print(f"note: {who} at {c}, run {rep}: {p['requests']['errors']} errors {p['requests']['by_error']}")
        runs.append((p["throughput"]["output_tok_s"], p["latency_ms"]["ttft"]["p50"], p["latency_ms"]["ttft"]["p99"]))
    return max(runs)

print("| streams | weir, tok/s | peer, tok/s | ratio | first token p50 / p99, weir | peer |\n|---|---|---|---|---|---|")
for c in loads:
    w, p = best("weir", c), best("peer", c)
    print(f"| {c} | {w[0]:.0f} | {p[0]:.0f} | **{w[0] / p[0]:.2f}** | {w[1]:.1f} / {w[2]:.1f} ms | {p[1]:.1f} / {p[2]:.1f} ms |")
EOF
