#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Words that must not occur: library code that ends the program, prints or allocates past the context; names of codecs and
# plan builders in transports; paths of somebody's machine; leftovers.
set -u
srcdir=${srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
cd "$srcdir" || exit 99
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
bad=0

# Removes comments (and, with strings=0, the insides of strings), keeps the lines.
code_only() { # code_only FILE STRINGS
    awk -v strings="$2" '{
        line = ""; n = length($0)
        for (i = 1; i <= n; i++) {
            c = substr($0, i, 1); d = substr($0, i, 2)
            if (comment) { if (d == "*/") { comment = 0; i++ } }
            else if (string) { if (strings || c == "\"") line = line c
                if (c == "\\") { i++; if (strings) line = line substr($0, i, 1) } else if (c == "\"") string = 0 }
            else if (d == "/*") { comment = 1; i++ }
            else if (d == "//") break
            else { if (c == "\"") string = 1; line = line c }
        }
        print line
    }' "$1"
}

report() { # report WHAT, grep -n output on stdin
    while read -r hit; do
        echo "FAIL: $1: $hit"
    done
}

scan() { # scan FILE PATTERN WHAT: in code
    if code_only "$1" 0 | grep -nE "$2" >"$tmp/hits"; then
        report "$3: $1" <"$tmp/hits"
        bad=1
    fi
}

before='(^|[^A-Za-z0-9_>.])'
for f in $(find src -name '*.c' -o -name '*.h' -o -name '*.inc' | sort); do
    scan "$f" "$before(_?exit|_Exit|abort|quick_exit|assert|signal|sigaction|raise|kill)[ ]*\(" "ends or signals the program"
    if [ "$f" != src/core/ctx.c ]; then
        scan "$f" "$before(v?f?printf|f?puts|putchar|perror|fwrite)[ ]*\(" "prints"
        scan "$f" "$before(malloc|calloc|realloc|free|aligned_alloc|posix_memalign|strn?dup|alloca|mmap)[ ]*\(" \
            "allocates past the context"
    fi
done

names='(^|[^a-z])(onebit|cast|quant|ternary|topk|randk|powersgd|lossless|intgrid|sra|native|hier|lowrank)($|[^a-z])'
names="$names|(^|[^a-z_])(gather|ef)($|[^a-z_])"
for f in $(find src/transports -name '*.c' -o -name '*.h' | sort); do
    # the native sum is a service of the transport table, and not the builder of that name
    if code_only "$f" 1 | sed -E 's/native([_ ](sums?|bytes))//g' | grep -nEi "$names" >"$tmp/hits"; then
        report "a codec, feedback or builder is named in a transport: $f" <"$tmp/hits"
        bad=1
    fi
done

# Text files of the tree that are ours: no private paths, no leftovers, each source says its licence.
find . \( -name .git -o -name 'build*' -o -name '_build' -o -name '_inst' -o -path ./config/auto -o -name autom4te.cache -o -name __pycache__ \) -prune -o \
    -type f \( -name '*.[ch]' -o -name '*.inc' -o -name '*.sh' -o -name '*.tap' -o -name '*.md' -o -name '*.am' -o \
    -name '*.ac' -o -name '*.m4' -o -name '*.in' -o -name '*.py' -o -name '*.[137]' -o -path './tools/*' -o -path './bench/*' \
    -o -name check -o -name quickstart -o -path './.ci/*' \) ! -name Makefile.in ! -name aclocal.m4 -print | sed 's,^\./,,' | sort >"$tmp/files"
while read -r f; do
    if grep -nE '(^|[^A-Za-z0-9_./$}])/(home|root|Users|wo[r]k)/' "$f" >"$tmp/hits"; then
        report "path of a private machine: $f" <"$tmp/hits"
        bad=1
    fi
    if grep -nE '\b(TOD[O]|FIXM[E]|XX[X])\b' "$f" >"$tmp/hits"; then
        report "leftover: $f" <"$tmp/hits"
        bad=1
    fi
    case $f in
    *.[ch] | *.inc | *.sh | *.py | tools/* | check | quickstart | .ci/*)
        head -n 5 "$f" | grep -q 'SPDX-License-Identifier: BSD-3-Clause' || {
            echo "FAIL: no SPDX line at the head of $f"
            bad=1
        }
        ;;
    esac
done <"$tmp/files"
echo "$(wc -l <"$tmp/files") files read"
exit $bad
