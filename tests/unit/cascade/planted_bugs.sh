#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Plants one bug at a time and demands that a test notices. usage, from the source root:
#   tests/unit/cascade/planted_bugs.sh [table]
# A table (planted_bugs.txt beside a test) names the programs to run and the bugs:
#   test <source ...>                   a test program: the first source names it; run in this order until one fails
#   code <source ...>                   what is linked to all of them
#   flags <...>                         more compiler flags and libraries
#   bug <file> | <what> | <sed script>  must change the file, must build, must be caught
# Prints caught/total; fails when a bug was not planted, did not build or survived. Two run at a time.
set -u
table=${1:-tests/unit/cascade/planted_bugs.txt}
CC=${CC:-cc}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
mkdir "$dir/src" "$dir/src/tests" # a snapshot: an edit under way must not change the bugs
cp -r engine kernels "$dir/src" && cp -r tests/unit "$dir/src/tests" || exit 1
cd "$dir/src" || exit 1
flags="-std=gnu11 -O1 -g -w -fsanitize=address,undefined -fno-sanitize-recover=all -I. -Iengine"
flags="$flags $(sed -n 's/^flags //p' "$table")"
sources=$(sed -n 's/^code //p; s/^test //p' "$table" | tr ' ' '\n' | sort -u)
object() { echo "$dir/$(echo "$1" | tr '/.' '__').o"; }

for s in $sources; do
  $CC $flags -c "$s" -o "$(object "$s")" || exit 1
done

objects() { for s in "$@"; do object "$s"; done; }
code=$(sed -n 's/^code //p' "$table")
sed -n 's/^test //p' "$table" > "$dir/tests"
grep '^bug ' "$table" > "$dir/bugs"
[ -s "$dir/bugs" ] && [ -s "$dir/tests" ] || { echo "$table: no bugs or no tests"; exit 1; }

# link <mutated source or none> <its object> <out> <sources...>: the program with one object exchanged
link() {
  swapped=$1 mutant=$2 out=$3
  shift 3
  list=""
  for s in $code "$@"; do
    if [ "$s" = "$swapped" ]; then list="$list $mutant"; else list="$list $(object "$s")"; fi
  done
  $CC $list $flags -lcmocka -lm -o "$out"
}

run_tests() { # <swapped> <object> <folder>: 0 when all pass
  while read -r line; do
    # shellcheck disable=SC2086
    link "$1" "$2" "$3/t" $line || return 2
    timeout 120 "$3/t" > "$3/log" 2>&1 || return 1
  done < "$dir/tests"
  return 0
}

one() { # <number> <line>
  file=$(printf '%s\n' "$2" | sed 's/^bug \([^ ]*\) .*/\1/')
  what=$(printf '%s\n' "$2" | cut -d'|' -f2 | sed 's/^ *//; s/ *$//')
  edit=$(printf '%s\n' "$2" | cut -d'|' -f3- | sed 's/^ *//')
  here="$dir/$1"
  mkdir "$here"
  sed "$edit" "$file" > "$here/m.c"
  if cmp -s "$file" "$here/m.c"; then echo "NOT PLANTED $what ($file)"; return; fi
  if ! $CC $flags -c "$here/m.c" -o "$here/m.o" 2> "$here/err"; then
    echo "NO BUILD    $what ($file)"; head -3 "$here/err"; return
  fi
  run_tests "$file" "$here/m.o" "$here"
  case $? in
    0) echo "SURVIVED    $what ($file)" ;;
    1) printf 'caught      %-52s %s\n' "$what" "$(grep -a -m1 -E ', case [0-9]+:|ERROR|runtime error|is not|!=' "$here/log" | cut -c1-100)" ;;
    *) echo "NO BUILD    $what ($file)" ;;
  esac
  rm -rf "$here"
}

mkdir "$dir/good"
run_tests none none "$dir/good" || { cat "$dir/good/log"; echo "the tests fail without a bug"; exit 1; }

half() { # every second bug, from the first or the second on
  n=0
  while read -r line; do
    n=$((n + 1))
    [ $((n % 2)) -eq "$1" ] && one $n "$line"
  done < "$dir/bugs" > "$dir/out.$1"
}
half 0 &
half 1
wait
cat "$dir/out.1" "$dir/out.0"
total=$(wc -l < "$dir/bugs")
caught=$(cat "$dir/out.1" "$dir/out.0" | grep -c '^caught')
echo "planted bugs: $caught/$total caught ($table)"
[ "$caught" -eq "$total" ]
