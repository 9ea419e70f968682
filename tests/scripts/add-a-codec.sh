#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Follows docs/add-a-codec.md on a copy of the sources: applies its blocks, builds the library, runs its test program.
# A block is a fenced piece of code behind one of these comments (TEXT is found in one line of FILE, and no other):
#   <!-- new file: FILE -->   <!-- in FILE after: TEXT -->   <!-- in FILE replace: TEXT -->
set -u
export LC_ALL=C
srcdir=${srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
page=$srcdir/docs/add-a-codec.md
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM
bad=0

say() { # say STATUS WHAT [FILE with the reason]
    if [ "$1" = 0 ]; then
        echo "ok - $2"
    else
        echo "not ok - $2"
        [ -z "${3:-}" ] || sed 's/^/# /' "$3" | head -n 40
        bad=1
    fi
}

# Blocks 1, 2, ... of the page as $tmp/N.code, with $tmp/N.{kind,file,text}.
read_blocks() {
    awk -v to="$tmp" '
    function put(what, value) { printf "%s\n", value >(to "/" n "." what); close(to "/" n "." what) }
    code && /^```/ { code = 0; close(out); next }
    code { print >out; next }
    /^<!-- .* -->$/ {
        s = substr($0, 6, length($0) - 9)
        file = text = kind = ""
        if (sub(/^new file: /, "", s)) { kind = "new"; file = s }
        else if (sub(/^in /, "", s) && match(s, / (after|replace): /)) {
            file = substr(s, 1, RSTART - 1); text = substr(s, RSTART + RLENGTH)
            kind = substr(s, RSTART + 1, RLENGTH - 3)
        } else next
        if (wanted) exit 1
        n++; put("kind", kind); put("file", file); put("text", text)
        wanted = 1; next
    }
    /^```/ && wanted { wanted = 0; code = 1; out = to "/" n ".code"; printf "" >out; next }
    END { if (code || wanted || !n) exit 1; print n }' "$page"
}

apply() { # apply N
    kind=$(cat "$tmp/$1.kind") file=$tmp/tree/$(cat "$tmp/$1.file")
    if [ "$kind" = new ]; then
        [ ! -e "$file" ] && cp "$tmp/$1.code" "$file"
        return
    fi
    TEXT=$(cat "$tmp/$1.text") awk -v kind="$kind" -v code="$tmp/$1.code" '
    index($0, ENVIRON["TEXT"]) {
        found++
        if (kind == "after") print
        while ((getline line <code) > 0) print line
        next
    }
    { print }
    END { if (found != 1) { print found + 0 " lines have: " ENVIRON["TEXT"] >"/dev/stderr"; exit 1 } }' \
        "$file" >"$tmp/new" 2>"$tmp/log" && cp "$tmp/new" "$file"
}

mkdir "$tmp/tree" "$tmp/o"
cp -R "$srcdir/include" "$srcdir/src" "$tmp/tree/" && chmod -R u+w "$tmp/tree"
n=$(read_blocks)
say $? "the page has blocks that can be applied"
[ $bad = 0 ] || exit 1
i=0
while [ $i -lt "$n" ]; do
    i=$((i + 1))
    : >"$tmp/log"
    apply $i
    say $? "$(cat "$tmp/$i.kind") $(cat "$tmp/$i.file")" "$tmp/log"
done
[ $bad = 0 ] || exit 1

cd "$tmp/tree" || exit 1
flags="-std=c11 -D_GNU_SOURCE -O1 -Wall -Wextra -Wno-missing-field-initializers -ffp-contract=off -pthread -Iinclude -Isrc ${XXHASH_CFLAGS:-}"
export flags
# shellcheck disable=SC2016 # for the inner shell
find src -name '*.c' ! -path 'src/transports/mpi*' | sort |
    xargs -P 2 -n 1 sh -c '${CC:-cc} $flags -Werror -c "$1" -o "$0/$(echo "$1" | tr / _).o"' "$tmp/o" 2>"$tmp/log"
say $? "the library builds with it" "$tmp/log"
# shellcheck disable=SC2086
[ $bad = 0 ] && { ${CC:-cc} $flags test_int8.c "$tmp"/o/*.o -lm -o "$tmp/test_int8" 2>"$tmp/log"; say $? "the test program builds" "$tmp/log"; }
if [ $bad = 0 ]; then
    "$tmp/test_int8"
    say $? "the test program passes"
fi
exit $bad
