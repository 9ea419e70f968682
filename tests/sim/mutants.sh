#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# mutants.sh [--quick] [--jobs J] [--configs N] [--seconds S] [--list FILE] [NAME...]: plants the bugs of mutants.txt (or
# FILE), one at a time (J programs side by side), and lets the property test look for them, S seconds at most (default 160).
# Each must be found by one of its checks within N configurations (default 2000); a crash or a hang counts only where the
# bug's line says that it is expected. Nothing is written to the source tree.
# Objects of a build are used where builddir names one; else all is compiled here.
set -u
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
srcdir=${srcdir:-$(cd "$here/../.." && pwd)}
cc=${CC:-cc}
flags="-std=c11 -D_GNU_SOURCE -O1 -w -ffp-contract=off -I$srcdir/include -I$srcdir/src ${CPPFLAGS:-}"
quick=0
jobs=1
configs=2000
seconds=160
names=
list=$here/mutants.txt
while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=1 ;;
    --jobs) jobs=${2:?--jobs wants a number}; shift ;;
    --configs) configs=${2:?--configs wants a number}; shift ;;
    --seconds) seconds=${2:?--seconds wants a number}; shift ;;
    --list) list=${2:?--list wants a file}; shift ;;
    -h | --help) sed -n '3,7s/^# //p' "$0"; exit 0 ;;
    -*) echo "mutants.sh: no option $1" >&2; exit 2 ;;
    *) names="$names $1" ;;
    esac
    shift
done
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
work=$tmp # of this process; each of those that search side by side has its own

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
archive "$test_library" $(find "$srcdir/tests/sim" -name '*.c' | grep -Ev '/(property|sweep|thousand|overflow)\.c$' | sort) || exit 99
compile "$srcdir/tests/sim/property.c" "$tmp/property.o" || exit 99

# search PROGRAM: how the test ended, in $ending: passed, check (one of its checks failed), crash, hang, or slow; $found
# says more.
search() {
    timeout -k 5 "$seconds" "$1" --configs "$configs" --seed 1 --time-limit $((seconds * 3 / 4)) >"$work/out" 2>/dev/null
    status=$?
    tries=$(sed -n 's/^\([0-9]*\) passed, [0-9]* failed$/\1/p' "$work/out")
    seed=$(sed -n 's/^  again: .* --only \([0-9]*\) .*/\1/p' "$work/out" | head -n 1)
    found=$(sed -n 's/^FAILED: //p' "$work/out" | head -n 1)
    if [ $status -eq 0 ]; then
        ending=passed
    elif [ $status -eq 124 ] || [ $status -eq 137 ]; then
        ending=hang found="stopped after $seconds s"
    elif [ -z "$tries" ]; then
        ending=crash found="exit status $status"
    elif [ -z "$seed" ]; then
        ending=slow
    else
        ending=check
    fi
}

link_test "$tmp/property" || exit 99
search "$tmp/property"
if [ $ending != passed ]; then
    echo "without any bug planted the test fails ($ending): $found"
    echo "0 passed, 1 failed"
    exit 1
fi
echo "without a planted bug: $configs configurations pass"

caught=0
missed=0
miss() { # miss NAME WHY
    echo "MISSED $1: $2"
    missed=$((missed + 1))
}

# judge NAME EXPECTED: EXPECTED is empty, or "crash: why" or "hang: why". A check that finds the bug is always right.
judge() {
    short=$(echo "$found" | cut -c1-110)
    if [ $ending = check ]; then
        echo "caught $1 by a check in $((tries + 1)) configurations (seed $seed): $short"
    elif [ $ending = "${2%%:*}" ]; then
        echo "caught $1 by a $ending, as expected (${2#*: }): $short"
    elif [ $ending = passed ]; then
        miss "$1" "$configs configurations pass"
        return
    else
        miss "$1" "no check finds it, the test ends by a $ending that its line does not expect: $short"
        return
    fi
    caught=$((caught + 1))
}

try() { # try NAME FILE EXPECTED
    sed -f "$tmp/$1.sed" "$srcdir/$2" >"$work/mutant.c" || exit 99
    if cmp -s "$srcdir/$2" "$work/mutant.c"; then
        miss "$1" "its script changes nothing in $2; the code has moved"
    elif ! compile "$work/mutant.c" "$work/mutant.o" 2>"$work/errors" || ! link_test "$work/mutant" "$work/mutant.o" 2>>"$work/errors"; then
        miss "$1" "does not compile: $(head -n 3 "$work/errors" | tr '\n' ' ')"
    else
        search "$work/mutant"
        judge "$1" "$3"
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
awk -v to="$tmp" '/^#/ || /^$/ { next } /^[^ ]/ { print; out = to "/" $1 ".sed"; next } { print > out }' "$list" >"$tmp/list"
mkdir "$tmp/taken"
try_list() { # try_list FOLDER: those bugs that no other process has taken; works in FOLDER and leaves the counts there
    mkdir "$1"
    work=$1
    while read -r name file rest; do
        speed=${rest%% *}
        [ "$speed" = quick ] && rest=${rest#quick} && rest=${rest# }
        if wanted "$name" "$speed" && mkdir "$tmp/taken/$name" 2>/dev/null; then try "$name" "$file" "$rest"; fi
    done <"$tmp/list"
    echo "$caught $missed" >"$work/counts"
}
job=0
processes=
while [ $job -lt "$jobs" ]; do
    job=$((job + 1))
    try_list "$tmp/job$job" &
    processes="$processes $!"
done
trap 'kill $processes 2>/dev/null; exit 1' HUP INT TERM
for process in $processes; do wait "$process" || exit 99; done
while read -r c m; do
    caught=$((caught + c)) missed=$((missed + m))
done <<END
$(cat "$tmp"/job*/counts)
END
echo "$caught caught, $missed missed"
echo "$caught passed, $missed failed"
[ $missed -eq 0 ] && [ $caught -gt 0 ]
