#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# What `make install` put below THINWIRE_PREFIX is whole: links and pictures of its documents lead to installed files, and
# every manual page of a program has that program; compare.py can be run, as its README says.
set -u
: "${THINWIRE_PREFIX:?}"
good=0
bad=0
there() { # there PATH SENTENCE
    if [ -e "$1" ]; then
        good=$((good + 1))
    else
        echo "FAILED: $2"
        bad=$((bad + 1))
    fi
}
links_of() { # links_of PAGE: relative ones, without the part behind #
    grep -o '](<*[^)]*)' "$1" | sed 's/^](//; s/[#)].*//' | grep -v '^[a-z]*:' | sort -u
}

for page in $(find "$THINWIRE_PREFIX/share/doc/thinwire" -name '*.md' | sort); do
    for link in $(links_of "$page"); do
        there "$(dirname "$page")/$link" "${page#"$THINWIRE_PREFIX"/} links to $link, which is not installed"
    done
done
for page in "$THINWIRE_PREFIX"/share/man/man1/*.1; do
    program=$(basename "$page" .1)
    there "$THINWIRE_PREFIX/bin/$program" "$program.1 is installed, $program is not"
done
there "$(find "$THINWIRE_PREFIX/share/doc/thinwire/examples/charlm" -name compare.py -perm -111)" \
    "examples/charlm/compare.py is not there, or cannot be run"
echo "$good passed, $bad failed"
[ $bad -eq 0 ] && [ $good -gt 0 ]
