#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Who may include whom: core <- {compressors, feedback, transports} <- {exec, collectives} <- reducer; folders of one level
# are blind to each other. Two headers are data and seen across: collectives see the codecs' traits (codec.h), exec sees
# what a plan is (plan.h). One header of the tests stands in for the compiler's own (tests/emulated/avx512.h). hwloc only in
# transports/topo.c, mpi.h only in transports/mpi*.
set -u
srcdir=${srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
cd "$srcdir" || exit 99
bad=0

fail() {
    echo "FAIL: $*"
    bad=1
}

allowed() { # folders that files of folder $1 may include from
    case $1 in
    core) echo core ;;
    compressors | feedback | transports) echo "core $1" ;;
    exec) echo "core compressors feedback exec collectives/plan.h" ;;
    collectives) echo "core collectives compressors/codec.h" ;;
    reducer) echo "core compressors feedback transports exec collectives reducer" ;;
    *) echo "" ;;
    esac
}

for f in $(find src -name '*.c' -o -name '*.h' -o -name '*.inc' | sort); do
    rest=${f#src/}
    folder=${rest%%/*}
    list=$(allowed "$folder")
    [ -n "$list" ] || fail "$f: the include rule does not know the folder src/$folder"
    # shellcheck disable=SC2013 # names of headers have no blanks
    for name in $(sed -n 's/^[ \t]*#[ \t]*include[ \t]*"\([^"]*\)".*/\1/p' "$f"); do
        case $name in
        config.h) continue ;;
        tests/emulated/avx512.h) [ "$f" = src/exec/isa_avx512.c ] && continue ;;
        */*) ;;
        *) # without a folder: beside the file itself
            [ -f "$(dirname "$f")/$name" ] || fail "$f includes \"$name\", which is not beside it"
            continue
            ;;
        esac
        [ -f "src/$name" ] || fail "$f includes \"$name\", which is not src/$name"
        ok=0
        for a in $list; do
            case $name in "$a" | "$a"/*) ok=1 ;; esac
        done
        [ $ok = 1 ] || fail "$f includes \"$name\": src/$folder may see only: $list"
    done
    if [ "$f" != src/transports/topo.c ] && grep -Eq '^[ 	]*#[ 	]*include[ 	]*[<"]hwloc' "$f"; then
        fail "$f includes hwloc; only src/transports/topo.c may"
    fi
    case $f in src/transports/mpi*) continue ;; esac
    if grep -Eq '^[ 	]*#[ 	]*include[ 	]*[<"](mpi|thinwire/mpi)\.h' "$f"; then
        fail "$f includes MPI; only src/transports/mpi* may"
    fi
done
exit $bad
