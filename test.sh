#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds weir and runs its tests: unit, kernel and simulation tests under AddressSanitizer and UndefinedBehavior-
# Sanitizer with warnings as errors (build/ci), end-to-end tests on the optimised build (build/release).
#
# usage: ./test.sh [--full] [--no-install]
#   --full        also ThreadSanitizer, the long property tests, planted bugs, a minute of fuzzing for each target,
#                 and a bare Debian root in which a clone must build, test and run (needs root and debootstrap)
#   --no-install  do not look for missing Debian packages
# Exit status: 0 when nothing failed. Writes under build/ only.
set -u
cd "$(dirname "$0")" || exit 1

full=no install=yes
for arg in "$@"; do
  case $arg in
    --full) full=yes ;;
    --no-install) install=no ;;
    -h | --help) sed -n '3,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "test.sh: unknown argument $arg; see ./test.sh --help" >&2; exit 2 ;;
  esac
done

passed=0 failed=0 skipped=0 failures=()
started=$SECONDS
say() { printf '\n== %s\n' "$*"; }

finish() {
  printf '\n'
  for f in ${failures+"${failures[@]}"}; do echo "FAILED: $f"; done
  echo "weir tests: $passed passed, $failed failed, $skipped skipped, in $((SECONDS - started)) s"
  [ "$failed" = 0 ]
  exit
}

# note NAME STATUS: counts one check by its exit status
note() {
  case $2 in
    0) passed=$((passed + 1)) ;;
    77) skipped=$((skipped + 1)) ;;
    *) failed=$((failed + 1)) failures+=("$1") ;;
  esac
}

# build PRESET TARGET...: configures and builds; a build that fails ends the run
build() {
  local preset=$1
  shift
  say "Building $preset"
  mkdir -p build
  cmake --preset "$preset" -D WEIR_TESTS=ON -D WEIR_RACE_TESTS="$full" > "build/configure-$preset.log" 2>&1 || {
    cat "build/configure-$preset.log"
    note "configuring $preset" 1
    finish
  }
  cmake --build "build/$preset" -j"$jobs" "$@" || { note "building $preset" 1; finish; }
}

# run_ctest NAME DIR ARG...: runs ctest and adds up what its report says
run_ctest() {
  local name=$1 dir=$2 report=build/report.xml
  shift 2
  say "Tests: $name"
  rm -f "$report"
  (cd "$dir" && ctest --output-on-failure -j"$jobs" --output-junit "$PWD/../report.xml" "$@")
  local status=$?
  local suite
  suite=$(grep -m1 -A12 '<testsuite' "$report" 2> /dev/null | tr '\n' ' ')
  count() { echo "$suite" | sed -n "s/.*[^a-z]$1=\"\([0-9]*\)\".*/\1/p"; }
  local all bad not off
  all=$(count tests) bad=$(count failures) not=$(count skipped) off=$(count disabled)
  if [ -z "$all" ] || [ "$all" = 0 ]; then
    note "$name: no test was run" 1
    return
  fi
  failed=$((failed + bad)) skipped=$((skipped + not + off)) passed=$((passed + all - bad - not - off))
  # A test that could not be run stands among the skipped in the report; ctest itself knows better.
  [ "$status" = 0 ] || [ "$bad" != 0 ] || note "$name: ctest ended with $status" 1
  while read -r t; do failures+=("$name: $t"); done < <(sed -n 's/.*<testcase name="\([^"]*\)".*status="fail".*/\1/p' "$report")
}

jobs=$(nproc)
if [ "$install" = yes ]; then
  sets=(build test)
  [ "$full" = no ] || sets+=(full)
  tools/install_deps.sh "${sets[@]}" || exit 1
fi

# Other people's clients (openai, pynng); without them those tests are skipped.
if python=$(tools/test_python.sh build/python); then export WEIR_TEST_PYTHON="$PWD/$python"; fi

build ci
run_ctest "sanitizers" build/ci -LE e2e
build release
run_ctest "end to end" build/release -L e2e

if [ "$full" = yes ]; then
  run_ctest "long property tests and planted bugs" build/ci -C Full -L full
  build tsan
  run_ctest "ThreadSanitizer" build/tsan -LE e2e
  build fuzz
  for fuzzer in build/fuzz/tests/fuzz/fuzz_*; do
    [ -f "$fuzzer" ] && [ -x "$fuzzer" ] || continue
    name=${fuzzer##*/fuzz_}
    say "Fuzzing $name for a minute"
    mkdir -p "build/fuzz/corpus/$name"
    dict=
    [ ! -f "tests/fuzz/$name.dict" ] || dict=-dict=tests/fuzz/$name.dict
    "$fuzzer" $dict -max_total_time=60 -rss_limit_mb=4096 -artifact_prefix=build/fuzz/ "build/fuzz/corpus/$name" \
      "tests/fuzz/corpus/$name" > "build/fuzz/$name.log" 2>&1
    status=$?
    tail -n 3 "build/fuzz/$name.log"
    note "fuzzing $name" $status
  done
  say "A clone in a bare Debian root"
  tests/e2e/bare_root.sh
  note "bare root" $?
fi
finish
