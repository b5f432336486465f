#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# An #include points to a lower floor or stays in its own folder. Also: no include of a .c file, no source file over
# 800 lines. Run from the repository root; prints each breach, exits 1 when there is one.
set -u
cd "$(dirname "$0")/.." || exit 1

floor_of() {
  case "$1" in
    base) echo 0 ;;
    kernels) echo 1 ;;
    model | comm | kv | cascade | proto) echo 2 ;;
    step | client | calibrate) echo 3 ;;
    run | sched) echo 4 ;;
    serve) echo 5 ;;
    net) echo 6 ;;
    programs) echo 7 ;;
    *) echo none ;;
  esac
}

bad=0
say() { echo "floors: $1"; bad=1; }

for file in $(find engine kernels $([ -d proto ] && echo proto) -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' | sort); do
  case "$file" in
    engine/*) own=$(echo "$file" | cut -d/ -f2) ;;
    *) own=$(echo "$file" | cut -d/ -f1) ;;
  esac
  mine=$(floor_of "$own")
  [ "$mine" = none ] && { say "$file: folder $own has no floor"; continue; }
  for inc in $(sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"\([^"]*\)".*/\1/p' "$file"); do
    case "$inc" in
      *.c) say "$file includes $inc" ;;
      */*) ;;
      *) say "$file includes \"$inc\" without its folder" ; continue ;;
    esac
    other=$(echo "$inc" | cut -d/ -f1)
    [ "$other" = "$own" ] && continue
    theirs=$(floor_of "$other")
    if [ "$theirs" = none ]; then say "$file includes $inc: unknown folder $other"
    elif [ "$theirs" -ge "$mine" ]; then say "$file (floor $mine) includes $inc (floor $theirs)"
    fi
  done
done

for file in $(find engine kernels tests benchmarks -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' | sort); do
  n=$(wc -l < "$file")
  [ "$n" -gt 800 ] && say "$file has $n lines (800 at most)"
done
[ "$bad" = 0 ] && echo "floors: every include points down"
exit "$bad"
