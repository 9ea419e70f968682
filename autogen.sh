#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Makes ./configure from a checkout. Run it again after adding, renaming or removing a source file: the lists that
# Makefile.am includes are taken from the tree here, so a new codec needs no line in the build.
set -eu
cd "$(dirname "$0")"
mkdir -p config/auto
sh config/list-sources.sh >config/auto/sources.am.new
if cmp -s config/auto/sources.am.new config/auto/sources.am 2>/dev/null; then
    rm config/auto/sources.am.new
else
    mv config/auto/sources.am.new config/auto/sources.am
fi
autoreconf -fi "$@"
