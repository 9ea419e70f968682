#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# mutants.sh [--quick] [--configs N] [NAME...]: plants the bugs of mutants.txt, one at a time, and lets the property test
# look for them. Each must be found within N configurations (default 1000). Nothing is written to the source tree.
# Objects of a build are used where builddir names one; else all is compiled here.
set -u
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
srcdir=${srcdir:-$(cd "$here/../.." && pwd)}
cc=${CC:-cc}
flags="-std=c11 -D_GNU_SOURCE -O1 -w -ffp-contract=off -I$srcdir/include -I$srcdir/src ${CPPFLAGS:-}"
quick=0
configs=1000
names=
while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=1 ;;
    --configs) configs=${2:?--configs wants a number}; shift ;;
    -h | --help) sed -n '3,5s/^# //p' "$0"; exit 0 ;;
    -*) echo "mutants.sh: no option $1" >&2; exit 2 ;;
    *) names="$names $1" ;;
    esac
    shift
done
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

compile() { # compile FILE OBJECT
    # shellcheck disable=SC2086 # several words
    $cc $flags -c "$1" -o "$2"
}
link_test() { # link_test PROGRAM OBJECT...: the first object wins over the library's of the same contents
    program=$1
    shift
    # shellcheck disable=SC2086
    $cc ${LDFLAGS:-} "$@" "$tmp/property.o" "$test_library" "$library" -lxxhash -lm -lpthread -o "$program"
}

# All objects into one archive: the mutant's object is named first, so the archive's own is never taken.
archive() { # archive LIBRARY FILE...
    out=$1
    shift
    mkdir -p "$tmp/objects"
    for file; do
        compile "$file" "$tmp/objects/$(echo "${file#"$srcdir"/}" | tr / _).o" || return 1
    done
    ar rcs "$out" "$tmp"/objects/*.o && rm -r "$tmp/objects"
}

library=${builddir:-/nonexistent}/.libs/libtwcore.a
if [ ! -f "$library" ]; then
    library=$tmp/libtwcore.a
    # shellcheck disable=SC2046 # the names have no blanks
    archive "$library" $(find "$srcdir/src" -name '*.c' | grep -v '/transports/mpi' | sort) || exit 99
fi
test_library=$tmp/libtest.a
# shellcheck disable=SC2046
archive "$test_library" $(find "$srcdir/tests/sim" -name '*.c' | grep -Ev '/(property|thousand|overflow)\.c$' | sort) || exit 99
compile "$srcdir/tests/sim/property.c" "$tmp/property.o" || exit 99

# search PROGRAM: 0 if the test found something; says in how many configurations.
search() {
    timeout -k 5 150 "$1" --configs "$configs" --seed 1 --time-limit 120 >"$tmp/out" 2>/dev/null
    status=$?
    tries=$(sed -n 's/^\([0-9]*\) passed, [0-9]* failed$/\1/p' "$tmp/out")
    found=$(sed -n 's/^FAILED: //p' "$tmp/out" | head -n 1)
    if grep -q '^FAILED: [0-9.]* s are over' "$tmp/out"; then
        status=0 # too slow is not found
    fi
    [ $status -ne 0 ]
}

link_test "$tmp/property" || exit 99
if search "$tmp/property"; then
    echo "without any bug planted the test fails: ${found:-status $status}"
    echo "0 passed, 1 failed"
    exit 1
fi
echo "without a planted bug: $configs configurations pass"

caught=0
missed=0
try() { # try NAME FILE, script in $tmp/script
    sed -f "$tmp/script" "$srcdir/$2" >"$tmp/mutant.c" || exit 99
    if cmp -s "$srcdir/$2" "$tmp/mutant.c"; then
        echo "MISSED $1: its script changes nothing in $2; the code has moved"
        missed=$((missed + 1))
    elif ! compile "$tmp/mutant.c" "$tmp/mutant.o" 2>"$tmp/errors" || ! link_test "$tmp/mutant" "$tmp/mutant.o" 2>>"$tmp/errors"; then
        echo "MISSED $1: does not compile: $(head -n 3 "$tmp/errors" | tr '\n' ' ')"
        missed=$((missed + 1))
    elif search "$tmp/mutant"; then
        echo "caught $1 in ${tries:+$((tries + 1)) configurations: }$(echo "${found:-a crash or a hang, status $status}" | cut -c1-110)"
        caught=$((caught + 1))
    else
        echo "MISSED $1: $configs configurations pass"
        missed=$((missed + 1))
    fi
}

wanted() { # wanted NAME QUICK
    case " $names " in
    "  ") [ $quick = 0 ] || [ "$2" = quick ] ;;
    *" $1 "*) true ;;
    *) false ;;
    esac
}

# Records to $tmp/list, scripts to $tmp/NAME.sed.
awk -v to="$tmp" '/^#/ || /^$/ { next } /^[^ ]/ { print; out = to "/" $1 ".sed"; next } { print > out }' "$here/mutants.txt" >"$tmp/list"
while read -r name file speed; do
    if wanted "$name" "$speed"; then
        cp "$tmp/$name.sed" "$tmp/script"
        try "$name" "$file"
    fi
done <"$tmp/list"
echo "$caught caught, $missed missed"
echo "$caught passed, $missed failed"
[ $missed -eq 0 ] && [ $caught -gt 0 ]
