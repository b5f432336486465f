#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Proof that a clone is all one needs: makes a bare Debian 12 root (debootstrap, variant minbase) in a temporary
# directory, clones this repository into it and runs commands there by chroot with nothing installed by hand; each
# command has a copy of the bare root of its own, so that none profits from what another installed.
#
# usage: tests/e2e/bare_root.sh [--run COMMAND]... [--ref REF] [--limit SECONDS] [--dir DIR] [--same-root] [--keep]
#   --run COMMAND    shell line run in the clone; may be repeated; default: ./test.sh, then ./demo.sh
#   --ref REF        what to check out (default: HEAD; only what is committed counts)
#   --limit SECONDS  bound for each command (default 3600)
#   --dir DIR        where the temporary root is made (default: $TMPDIR or /tmp; needs about 2 GB)
#   --same-root      all commands in one root, one after another
#   --keep           leaves the roots there and says where
#
# The mirror, the proxy and the other download settings are those of this host's own apt. Needs root, debootstrap,
# git and leave to mount; says SKIP (exit 77) where it has not. Mounts live in a mount namespace that ends with the
# command, processes in a process namespace where that is permitted, so nothing leaks when it is interrupted.
set -euo pipefail

RELEASE=bookworm
runs=() ref=HEAD limit=3600 dir=${TMPDIR:-/tmp} same=no keep=no
usage() { sed -n '7,13s/^# \{0,1\}//p' "$0"; }
need_value() { [ "$2" -ge 2 ] || { echo "bare_root: $1 needs a value" >&2; exit 2; }; }
while [ $# -gt 0 ]; do
  case $1 in
    --run) need_value "$1" $#; runs+=("$2"); shift ;;
    --ref) need_value "$1" $#; ref=$2; shift ;;
    --limit) need_value "$1" $#; limit=$2; shift ;;
    --dir) need_value "$1" $#; dir=$2; shift ;;
    --same-root) same=yes ;;
    --keep) keep=yes ;;
    -h | --help) usage; exit 0 ;;
    *) echo "bare_root: unknown argument $1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
[ ${#runs[@]} -gt 0 ] || runs=(./test.sh ./demo.sh)

skip() { echo "SKIP bare_root: $*"; exit 77; }
say() { echo "== bare_root: $*"; }

[ "$(id -u)" = 0 ] || skip "must be root"
PATH=$PATH:/usr/sbin:/sbin
for tool in debootstrap git unshare chroot timeout apt-config; do
  command -v $tool > /dev/null || skip "$tool is not installed"
done
unshare --mount true 2> /dev/null || skip "no leave to make a mount namespace"

# "URI SUITE" of every apt source of this host that brings main of the release, whichever of apt's two formats names it.
sources() {
  local files=()
  for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    [ -f "$f" ] && files+=("$f")
  done
  [ ${#files[@]} -gt 0 ] || return 0
  awk -v release=$RELEASE '
    function flush(i, j, n, m, u, s) {
      if (types ~ /(^| )deb( |$)/ && comps ~ /(^| )main( |$)/ && enabled != "no") {
        n = split(uris, u, " ")
        m = split(suites, s, " ")
        for (i = 1; i <= n; i++)
          for (j = 1; j <= m; j++)
            if (s[j] ~ "^" release "(-updates|-security)?$") print u[i], s[j]
      }
      types = uris = suites = comps = enabled = ""
    }
    FNR == 1 { flush(); stanza = FILENAME ~ /\.sources$/ }
    /^[ \t]*#/ { next }
    !stanza && $1 == "deb" {
      sub(/\[[^]]*\]/, "")
      types = "deb"; uris = $2; suites = $3; comps = ""
      for (i = 4; i <= NF; i++) comps = comps " " $i
      flush()
    }
    stanza && /^[ \t]*$/ { flush() }
    stanza && /^[A-Za-z-]+:/ {
      key = tolower($1); value = $0; sub(/^[^:]*:[ \t]*/, "", value)
      if (key == "types:") types = value
      if (key == "uris:") uris = value
      if (key == "suites:") suites = value
      if (key == "components:") comps = value
      if (key == "enabled:") enabled = tolower(value)
    }
    END { flush() }' "${files[@]}" | awk '!seen[$0]++'
}
mirror=$(sources | awk -v r=$RELEASE '$2 == r { print $1; exit }')
[ -n "$mirror" ] || skip "apt of this host names no mirror of $RELEASE"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f $keyring ] || skip "$keyring is not installed"

# A proxy that only apt knows of; debootstrap downloads by wget and reads the environment.
for scheme in http https; do
  proxy=$(apt-config dump | sed -n "s/^Acquire::$scheme::Proxy \"\\(.*\\)\";$/\\1/ip" | tail -1)
  if [ -n "$proxy" ] && [ "$proxy" != DIRECT ]; then export "${scheme}_proxy=$proxy"; fi
done

repo=$(cd "$(dirname "$0")/../.." && pwd)
git -C "$repo" rev-parse --verify --quiet "$ref^{commit}" > /dev/null || { echo "bare_root: no commit $ref" >&2; exit 2; }
commit=$(git -C "$repo" rev-parse "$ref^{commit}")
work=$(mktemp -d "$dir/weir-bare-root.XXXXXX")
root=$work/bare
cleanup() {
  if [ "$keep" = yes ]; then
    say "kept $work"
  else
    rm -rf --one-file-system "$work"
  fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say "debootstrap $RELEASE minbase"
started=$SECONDS
debootstrap --variant=minbase --keyring=$keyring $RELEASE "$root" "$mirror" > "$work/debootstrap.log" 2>&1 || {
  tail -20 "$work/debootstrap.log"
  echo "bare_root: debootstrap failed" >&2
  exit 1
}
say "$(chroot "$root" dpkg-query -f '.\n' -W | wc -l) packages in $((SECONDS - started)) s"

# apt inside downloads as apt outside does.
sources | sed 's/^\(.*\) \(.*\)$/deb \1 \2 main/' > "$root/etc/apt/sources.list"
apt-config dump | grep -E '^Acquire::[^ ]+ ".+";$' | grep -v '::IndexTargets::' > "$root/etc/apt/apt.conf.d/00host" || true
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
if grep -q https: "$root/etc/apt/sources.list" && [ -f /etc/ssl/certs/ca-certificates.crt ]; then
  mkdir -p "$root/etc/ssl/certs"
  cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
fi
# Packages must not start their services: the network is the host's.
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"

git clone --quiet --no-local "$repo" "$root/weir"
git -C "$root/weir" checkout --quiet --detach "$commit"
git -C "$root/weir" remote remove origin

# Runs in the namespaces: mounts what it may, then the command by chroot.
inside='
  root=$1 limit=$2 line=$3
  mount -t proc proc "$root/proc" 2> /dev/null || mount --rbind /proc "$root/proc" || echo "no /proc inside"
  mount -t sysfs -o ro sysfs "$root/sys" 2> /dev/null || mount --rbind /sys "$root/sys" || echo "no /sys inside"
  mount --rbind /dev "$root/dev" || echo "no /dev inside"
  exec timeout --kill-after=30 "$limit" chroot "$root" /bin/sh -c "cd /weir && $line"'
processes=()
if unshare --mount --pid --fork --kill-child true 2> /dev/null; then processes=(--pid --fork --kill-child); fi
pass=(HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "TERM=${TERM:-dumb}")
for v in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
  if [ -n "${!v:-}" ]; then pass+=("$v=${!v}"); fi
done

status=0 n=0
for line in "${runs[@]}"; do
  n=$((n + 1))
  if [ $n = 1 ] || [ $same = no ]; then
    [ $n = 1 ] || [ $keep = yes ] || rm -rf --one-file-system "$root"
    root=$work/root$n
    cp -a --reflink=auto "$work/bare" "$root"
  fi
  say "$line (commit ${commit:0:12}, at most $limit s)"
  started=$SECONDS
  rc=0
  env -i "${pass[@]}" unshare --mount --propagation private "${processes[@]}" \
    /bin/sh -c "$inside" bare_root "$root" "$limit" "$line" < /dev/null || rc=$?
  case $rc in
    0) verdict=passed ;;
    124 | 137) verdict="ran past $limit s or was killed" status=1 ;;
    *) verdict="failed with status $rc" status=1 ;;
  esac
  say "$line: $verdict after $((SECONDS - started)) s; $(chroot "$root" dpkg-query -f '.\n' -W | wc -l) packages," \
    "$(du -smx "$root" | cut -f1) MB"
  [ $status = 0 ] || break
done
exit $status
