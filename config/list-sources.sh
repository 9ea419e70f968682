#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Prints the Makefile fragment with the lists of files; run by autogen.sh in the top source folder.
set -eu
export LC_ALL=C

# list VARIABLE, names on stdin
list() {
    printf '%s =' "$1"
    while read -r name; do
        printf ' \\\n    %s' "$name"
    done
    printf '\n\n'
}

files() { # files FOLDER PATTERN...: those that exist, sorted
    folder=$1
    shift
    [ -d "$folder" ] || return 0
    for pattern; do
        find "$folder" -type f -name "$pattern" ! -path '*/build*/*' ! -path '*/.*' ! -path '*/__pycache__/*'
    done | sort
}

has_main() { grep -Eq '(^|[^a-zA-Z0-9_])(main|UNIT_MAIN|FUZZ_MAIN)\(' "$1"; }
variable() { echo "$1" | sed 's/[^A-Za-z0-9]/_/g'; } # automake's name for a target

echo "# Made by config/list-sources.sh; not kept in the repository."
echo

files src '*.c' '*.h' '*.inc' | sed '/^src\/transports\/mpi/d' | list tw_core_sources
files src '*.c' '*.h' | sed -n '/^src\/transports\/mpi/p' | list tw_mpi_sources
files include '*.h' | sed '/\/mpi\.h$/d' | list tw_public_headers
for f in tools/thinwire-bench.c tools/bench_*.[ch]; do if [ -f "$f" ]; then echo "$f"; fi; done | list tw_bench_sources
for f in tools/thinwire-info.c tools/bench_common.[ch]; do if [ -f "$f" ]; then echo "$f"; fi; done | list tw_info_sources
for f in tools/thinwire-codec.c tools/codec_*.[ch] tools/bench_common.[ch]; do if [ -f "$f" ]; then echo "$f"; fi; done | list tw_codec_sources
for f in tools/thinwire-plan.c tools/plan_*.[ch] tools/bench_common.[ch]; do if [ -f "$f" ]; then echo "$f"; fi; done | list tw_plan_sources
files tools/codec '*.c' '*.h' | list tw_files_sources
files tools/netlab '*.py' | list tw_netlab_parts
files man '*.1' '*.3' '*.7' | list tw_man_pages
{
    for f in README.md LICENSE; do if [ -f "$f" ]; then echo "$f"; fi; done
    files docs '*'
} | list tw_docs
files examples '*' | sed '/\.py$/d' | list tw_examples
files examples/charlm '*.py' | list tw_charlm_scripts

# Every C file below tests/ with a main() is a program; the others are helpers that the programs of their folder may use.
with_main() { while read -r f; do if has_main "$f"; then echo "$f"; fi; done; }
without_main() { while read -r f; do if ! has_main "$f"; then echo "$f"; fi; done; }

programs=$(files tests '*.c' | sed '/^tests\/mpi\//d' | with_main | sed 's/\.c$//')
mpi_programs=$(files tests/mpi '*.c' | with_main | sed 's/\.c$//')
echo "$programs" | sed '/^$/d' | list tw_test_programs
echo "$mpi_programs" | sed '/^$/d' | list tw_mpi_test_programs
helper_libraries=
for folder in tests/*/; do
    folder=${folder%/}
    if [ "$folder" = tests/mpi ] || [ "$folder" = tests/fuzz ] || [ -z "$(files "$folder" '*.c' | without_main)" ]; then continue; fi
    v=libtw_$(variable "$folder")_la
    helper_libraries="$helper_libraries libtw_$(variable "$folder").la"
    files "$folder" '*.c' | without_main | list "${v}_SOURCES"
    # shellcheck disable=SC2016 # for make to expand
    printf '%s_CFLAGS = $(AM_CFLAGS) $(CUNIT_CFLAGS)\n\n' "$v"
    for p in $programs; do
        # shellcheck disable=SC2016
        case $p in "$folder"/*) printf '%s_LDADD = %s $(LDADD)\n\n' "$(variable "$p")" "${v%_la}.la" ;; esac
    done
done
echo "tw_test_libraries =$helper_libraries"
echo
files tests/mpi '*.c' | without_main | list tw_mpi_test_helpers
for p in $mpi_programs examples/first; do
    [ -f "$p.c" ] || continue
    v=$(variable "$p")
    # shellcheck disable=SC2016 # for make to expand
    printf '%s_CPPFLAGS = $(mpi_test_cppflags)\n%s_LDADD = $(mpi_test_ldadd)\n\n' "$v" "$v"
done
if [ -f examples/first.c ]; then echo examples/first; fi | list tw_first

files tests/scripts 'rule-*.sh' 'add-a-codec.sh' | list tw_rule_tests
{
    files tests '*' | sed '/\.c$/d'
    files tests/fuzz '*.c'
    files bench '*'
    files config '*' | sed '/^config\/auto\//d'
    for f in quickstart autogen.sh VERSION .ci/run .clang-format; do if [ -f "$f" ]; then echo "$f"; fi; done
} | list tw_extra_dist
