#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Checks and measures weir on the GPU of this machine: builds for it, holds its instructions, operations and whole
# models against references, times operations, steps and the cascade, and writes what came out as JSON.
#
# usage: benchmarks/gpu/run.sh [--rehearse BUILD | --build ARCH]
#   --rehearse BUILD   the same steps in tiny sizes on the emulated GPU of a build folder with tests; builds nothing
#   --build ARCH       builds only, for 80, 89, 90a, ...: no GPU is needed. Where there is no nvcc, a run then takes what
#                      such a build has left in the build folder
# Environment: OUT     folder of the result (default benchmarks/results)
#              BUDGET  seconds for everything (default 480)
#              BUILD   build folder (default build/gpu)
# Exit status: 0; 1 when a step failed or a row is out of bounds; 77 without a GPU, nvcc or python3.
set -u
cd "$(dirname "$0")/../.." || exit 1
here=benchmarks/gpu
only_build=no budget=${BUDGET:-480} out=${OUT:-benchmarks/results} build=${BUILD:-build/gpu} rehearse=no
while [ $# -gt 0 ]; do
  case $1 in
    --rehearse) rehearse=yes; build=${2:?--rehearse needs a build folder}; shift 2 ;;
    --build) only_build=yes; cap=${2:?--build needs an architecture}; shift 2 ;;
    -h | --help) sed -n '3,14s/^# \{0,1\}//p' "$here/run.sh"; exit 0 ;;
    *) echo "run.sh: unknown argument $1; see --help" >&2; exit 2 ;;
  esac
done

# ---- what there is ----
nvcc=$(command -v nvcc || command -v /usr/local/cuda/bin/nvcc)
if [ $only_build = yes ]; then
  [ -n "$nvcc" ] || { echo "SKIP: no nvcc"; exit 77; }
  gpu="none, $cap" library=$build/engine/programs/weir-cuda.so
elif [ $rehearse = no ]; then
  gpu=$(nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv,noheader 2> /dev/null | head -n 1)
  [ -n "$gpu" ] || { echo "SKIP: no CUDA device (nvidia-smi names none)"; exit 77; }
  library=$build/engine/programs/weir-cuda.so
  [ -n "$nvcc" ] || [ -e "$build/benchmarks/gpu/ceilings-gpu" ] || { echo "SKIP: no nvcc, and no build in $build"; exit 77; }
  cap=$(echo "$gpu" | cut -d , -f 2 | tr -d '. ')
  [ "$cap" = 90 ] && cap=90a
else
  gpu="emulated, 0.0, none, 0 MiB" cap=''
  library=$build/tests/cuda/weir-cuda-emu.so
  for f in "$library" "$build/benchmarks/bench_step" "$build/benchmarks/gpu/ceilings" "$build/engine/programs/weir"; do
    [ -e "$f" ] || { echo "SKIP: $f is not built"; exit 77; }
  done
fi
programs=$build/benchmarks/gpu weir=$build/engine/programs/weir
python=$(command -v python3) || { echo "SKIP: no python3, which puts the results together"; exit 77; }

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
bad=0

# ---- steps ----
# note NAME STATUS SECONDS TEXT: what became of a step
note() {
  printf '{"step":"%s","status":"%s","seconds":%d}\n' "$1" "$2" "$3" >> "$work/steps.jsonl"
  printf '%-28s %-9s %4d s  %4d s left  %s\n' "$1" "$2" "$3" $((budget - SECONDS)) "${4:-}"
}
# step NAME LIMIT COMMAND...: its output is lines of JSON in $work/NAME.jsonl; never ends the run
step() {
  local name=$1 limit=$2 started=$SECONDS rc left=$((budget - SECONDS)) word=ok
  shift 2
  if [ $left -lt 3 ]; then note "$name" 'no time' 0; bad=1; return 1; fi
  [ "$limit" -le $left ] || limit=$left
  timeout -k 5 "$limit" "$@" > "$work/$name.jsonl" 2> "$work/$name.log"
  rc=$?
  case $rc in
    0) ;;
    77) word=skipped ;;
    124 | 137) word='timed out' bad=1 ;;
    *) word=failed bad=1 ;;
  esac
  note "$name" "$word" $((SECONDS - started)) "$([ $rc = 0 ] || tail -n 1 "$work/$name.log" | cut -c 1-120)"
  return $rc
}
skip() { note "$1" skipped 0 "$2"; }

# ---- the build ----
configure_and_build() {
  local targets=(weir weir_cuda bench_step check_model check_ops check_comm)
  cmake --preset release -B "$build" -D WEIR_CUDA=ON -D WEIR_CUDA_ARCHS="$cap-real" -D WEIR_TESTS=ON >&2 || return
  # Golden values of the instructions: only where a C++ compiler has built the emulator.
  if cmake --build "$build" --target help | grep -q '^conf:'; then targets+=(conf); fi
  cmake --build "$build" -j"$(nproc)" --target "${targets[@]}" >&2
}
for_gpu() { # OUTPUT SOURCE...: with nvcc
  local o=$1
  shift
  "$nvcc" -std=c++17 -O3 -I. -Iengine -gencode "arch=compute_$cap,code=sm_$cap" "$@" -o "$o" -lcublasLt >&2
}
build_all() {
  configure_and_build && for_gpu "$programs/ceilings-gpu" $here/ceilings.cu || return
  if [ -x "$build/tests/emu/conf" ]; then
    "$build/tests/emu/conf" write "$programs/conf.golden" >&2 &&
      for_gpu "$programs/conf-gpu" tests/emu/conf.cu tests/emu/conf_ref.cpp
  fi
}
sanitizer() { # TOOL
  compute-sanitizer --tool "$1" --error-exitcode 9 --log-file "$work/$1.txt" \
    "$programs/check_ops" --cuda-library "$library" --small || { tail -n 3 "$work/$1.txt" >&2; return 1; }
}
export -f configure_and_build for_gpu build_all sanitizer
export build cap nvcc here work programs library

# ---- sizes ----
if [ $rehearse = no ]; then
  models=(tests/vectors/models/*.gguf models/weir-demo-*.gguf)
  check_args=(--rows 160 --tokens 64) ops_args=() comm_args=() ceiling_args=()
  batches='1 8 32 64 128' eval_args=()
  shapes='qwen3-0.6b:Q8_0 qwen3-0.6b:BF16 llama-3.1-8b:Q4_0 llama-3.1-8b:Q8_0 qwen3-32b:Q4_0 llama-3.1-8b:BF16'
  step_args=(--prefill 512,2048 --step-tokens 2048 --context 1024 --decode 16 --batch 1,8,32,64,128 --catch-up 0)
  step_limit=45
else
  models=(tests/vectors/models/llama-Q8_0.gguf tests/vectors/models/qwen3-F32.gguf)
  check_args=(--rows 12 --tokens 2) ops_args=(--small) comm_args=(--small) ceiling_args=(--small)
  [ ! -e "$build/tests/cuda/fake-nccl-0.so" ] || comm_args+=(--nccl-library "$build/tests/cuda/fake-nccl-0.so")
  batches='2' eval_args=(--limit 1 --max-tokens 2 --ctx 256)
  shapes='llama-134m:Q4_0'
  step_args=(--layers 1 --prefill 8 --decode 1 --batch 1,2 --catch-up 0 --repeats 1)
  step_limit=30
fi

# ---- the run ----
echo "$gpu; $budget s at most"
if [ $rehearse = no ]; then
  if [ -z "$nvcc" ]; then skip build "no nvcc: what is in $build"; elif ! step build 300 bash -c build_all; then
    tail -n 20 "$work/build.log"
    exit 1
  fi
  [ $only_build = no ] || exit 0
  conf=$programs/conf-gpu golden=$programs/conf.golden ceilings=$programs/ceilings-gpu
else
  conf=$build/tests/emu/conf golden=$work/conf.golden ceilings=$programs/ceilings
  "$conf" write "$golden" > /dev/null || bad=1
fi
if [ -x "$conf" ]; then step conformance 60 sh -c '"$1" compare "$2" >&2' - "$conf" "$golden"; else skip conformance "no emulator, which makes the golden values"; fi
step ceilings 60 "$ceilings" "${ceiling_args[@]}"
step models 90 "$programs/check_model" --cuda-library "$library" "${check_args[@]}" "${models[@]}"
# What waits on the GPU must not meet kernels that are loaded late.
step comm 60 env CUDA_MODULE_LOADING=EAGER "$programs/check_comm" --cuda-library "$library" "${comm_args[@]}"
step ops 120 "$programs/check_ops" --cuda-library "$library" "${ops_args[@]}"
for shape in $shapes; do
  step "step-${shape/:/-}" $step_limit "$build/benchmarks/bench_step" --shape "${shape%:*}" --type "${shape#*:}" --device cuda \
    --cuda-library "$library" --json "${step_args[@]}"
done
for b in $batches; do
  step "cascade-$b" 30 "$weir" eval models/tasks-test.jsonl -s models/weir-demo-small-Q8_0.gguf \
    -l models/weir-demo-large-Q8_0.gguf --device cuda --cuda-library "$library" --batch "$b" --large-batch "$b" --summary --quiet \
    "${eval_args[@]}"
done
for tool in memcheck racecheck; do
  if [ $rehearse = yes ]; then skip $tool "no GPU"; elif command -v compute-sanitizer > /dev/null; then
    step $tool 60 bash -c 'sanitizer "$@"' - $tool
  else skip $tool "no compute-sanitizer"; fi
done
step peers 60 "$python" $here/peer.py "$([ $rehearse = yes ] && echo --small || echo --full)"

# ---- the result ----
mkdir -p "$out" && "$python" $here/assemble.py "$work" "$out" "$gpu" "$(git rev-parse HEAD 2> /dev/null)" || bad=1
exit $bad
