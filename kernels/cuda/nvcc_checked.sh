#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs nvcc on one kernel file and looks at what ptxas says of it: spills and stack frames end the build, for every
# kernel and architecture, but those that spills_allowed.txt names. What registers, shared memory and stack each
# kernel takes is written beside the object, to <object>.ptxas.
# usage: nvcc_checked.sh SPILLS_ALLOWED.txt NVCC ARG...   (a compiler launcher: CMake puts it before nvcc)
set -u
list=$1
shift
object=
previous=
for arg in "$@"; do
  [ "$previous" = -o ] && object=$arg
  previous=$arg
done
[ -n "$object" ] || exec "$@"
case " $* " in
  *" -c "*) ;;
  *) exec "$@" ;;
esac

said=$object.ptxas.raw
"$@" -Xptxas=-v 2> "$said"
status=$?
# Everything that is no report of ptxas, as it came.
grep -v -e '^ptxas info' -e '^    [0-9]* bytes stack frame' "$said" >&2
if [ "$status" != 0 ]; then
  rm -f "$said"
  exit "$status"
fi

# A line of the list: "kernel BYTES why". A mangled name has the kernel's own behind its length.
awk -v list="$list" '
  BEGIN {
    while ((got = (getline line < list)) > 0) {
      if (line ~ /^[ \t]*(#|$)/) continue
      n = split(line, word, /[ \t]+/)
      if (n < 3 || word[2] !~ /^[0-9]+$/) { print "nvcc_checked: " list ": " line > "/dev/stderr"; bad = 1 }
      stack[word[1]] = word[2] + 0
    }
    if (got < 0) { print "nvcc_checked: cannot read " list > "/dev/stderr"; bad = 1; exit 1 }
  }
  function kernel_of(mangled, k, best) {
    best = ""
    for (k in stack)
      if ((mangled == k || index(mangled, length(k) k)) && length(k) > length(best)) best = k
    return best
  }
  /Compiling entry function/ {
    split($0, part, "\047")
    mangled = part[2]
    arch = part[4]
    entries++
  }
  /bytes stack frame/ && mangled != "" && !(mangled arch in frame) {
    frame[mangled arch] = $1
    allowed = stack[kernel_of(mangled)] + 0
    if ($1 > allowed || (allowed == 0 && $5 + $9 > 0)) {
      printf "nvcc_checked: %s for %s: %d bytes of stack, %d spilled, %d read back; %d bytes of stack are allowed\n", \
        mangled, arch, $1, $5, $9, allowed > "/dev/stderr"
      bad = 1
    }
    spill = $1 " bytes stack, " $5 "+" $9 " spilled"
  }
  /Used [0-9]+ registers/ && mangled != "" {
    use = $0
    sub(/^.*Used /, "", use)
    print arch " " mangled ": " use ", " spill
    used++
  }
  END {
    if (!bad && entries != used) {
      printf "nvcc_checked: %d kernels, %d reports: ptxas says it in other words than this script knows\n", \
        entries, used > "/dev/stderr"
      bad = 1
    }
    exit bad
  }' "$said" > "$object.ptxas"
status=$?
rm -f "$said"
[ "$status" = 0 ] || rm -f "$object"
exit "$status"
