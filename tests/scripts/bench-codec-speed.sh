#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# bench/codec-speed: with a thinwire-bench of given figures, what its page says and how it ends; and a short run with the
# real one of builddir, where there is one.
set -u
srcdir=${srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
# shellcheck source=tests/scripts/tap.sh
. "$srcdir/tests/scripts/tap.sh"

# ENCODE: what it gives as a part of the loop's speed; avx512 is not on its CPU.
cat >"$tmp/thinwire-bench" <<'END'
#!/usr/bin/env python3
import os, sys
a = sys.argv[1:]
if a == ["--version"]:
    sys.exit(print("thinwire-bench 9.9"))
isa = a[a.index("--isa") + 1]
if isa == "avx512":
    sys.exit(print('thinwire-bench codec: this CPU cannot run ISA "avx512"', file=sys.stderr) or 2)
for i in range(len(a) - 1):
    if a[i] == "--codec":
        print('{"codec": "%s", "philox_gbs": 20, "bytes": 67108864, "encode_gbs": 8, "decode_add_gbs": 16, "encode_of_bound": %s, '
              '"decode_add_of_bound": 0.97, "bits_per_value": 1.0625, "nmse": 0.3, "isa": "%s"}' % (a[i + 1], os.environ["ENCODE"], isa))
END
chmod +x "$tmp/thinwire-bench"
speed() { # speed STATUS ENCODE ARGUMENT...: the script ends with this status
    want=$1
    ENCODE=$2
    export ENCODE
    shift 2
    timeout 100 python3 "$srcdir/bench/codec-speed" --out "$tmp/page" --sessions 2 "$@" >"$tmp/log" 2>&1
    status=$?
    [ $status = "$want" ] || echo "status $status, not $want" >>"$tmp/log"
    [ $status = "$want" ]
}
has() { grep -q -- "$1" "$tmp/page.md" || { cat "$tmp/page.md" >>"$tmp/log"; false; }; }

speed 0 0.92 --build "$tmp" && has '≥ 0.85: met' && has '≥ 0.95: met' && ! has '\*\*missed'
result $? "goals that are met"
has 'avx512.* was left out: this CPU cannot run ISA'
result $? "an instruction set that is not here is named"
has 'Philox4x32-7, come at 20.0 (20.0–20.0) GB/s, a second bound; encode reaches 0.40 of it'
result $? "the rate of the random numbers"
[ "$(grep -c ': met' "$tmp/page.md")" = 14 ] && has '^## avx2' && has '^## ref'
result $? "goals are for the best instruction set that is here"
has 'thinwire-bench codec -b 64M -n 12 -w 2 --isa avx2 --codec onebit+ef'
result $? "the page names the commands"
! grep -qwF "$(uname -n)" "$tmp/page.md" "$tmp/page.json"
result $? "and no host"
speed 1 0.80 --build "$tmp" && has '≥ 0.85: \*\*missed\*\*' && has '≥ 0.9: \*\*missed\*\*'
result $? "a goal that is missed"
rm -f "$tmp/page.md"
speed 1 0.92 --build "$tmp" --isa avx512 && [ ! -e "$tmp/page.md" ]
result $? "no instruction set: nothing is written"
speed 2 0.92 --build "$tmp" --sessions 0
result $? "wrong usage"
if [ -x "${builddir:-/nonexistent}/thinwire-bench" ]; then
    speed 0 0 --build "$builddir" --bytes 1M -n 1 -w 0 --codec onebit+ef --codec none --codec topk+ef && has '^## ref' && has "topk+ef., ref: the owner's part" && ! has '≥'
    result $? "a short run, without goals for so few bytes"
fi
echo "1..$n"
[ $bad = 0 ]
