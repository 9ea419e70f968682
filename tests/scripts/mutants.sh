#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The hunt for planted bugs (tests/sim/mutants.sh) itself: a bug that crashes or hangs the property test counts as caught
# only where its line expects that, and one that nothing shows is missed.
set -u
srcdir=${srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

cat >"$tmp/list" <<'END'
checked src/reducer/step.c
    s/if (skipped && (r->cfg.nonfinite == TW_NONFINITE_SKIP || !keep))/if (skipped)/
crashes src/reducer/step.c
    s/^tw_status tw_reducer_begin(.*{$/& __builtin_trap();/
crashes-as-expected src/reducer/step.c crash: it traps
    s/^tw_status tw_reducer_begin(.*{$/& __builtin_trap();/
hangs src/reducer/step.c
    s/^tw_status tw_reducer_begin(.*{$/& for (;;) (void)*(volatile uint64_t *)\&step;/
hangs-as-expected src/reducer/step.c hang: it loops
    s/^tw_status tw_reducer_begin(.*{$/& for (;;) (void)*(volatile uint64_t *)\&step;/
hangs-instead src/reducer/step.c crash: it should trap
    s/^tw_status tw_reducer_begin(.*{$/& for (;;) (void)*(volatile uint64_t *)\&step;/
harmless src/reducer/step.c
    s/steps must grow/steps have to grow/
END
sh "$srcdir/tests/sim/mutants.sh" --configs 30 --seconds 5 --list "$tmp/list" >"$tmp/out"
status=$?
failed=0
says() { # says TEXT: the hunt printed that
    if ! grep -q "$1" "$tmp/out"; then
        echo "FAILED: no line '$1'"
        failed=$((failed + 1))
    fi
}
says '^caught checked by a check in [0-9]* configurations (seed [0-9]*)'
says '^MISSED crashes: no check finds it, the test ends by a crash'
says '^caught crashes-as-expected by a crash, as expected (it traps)'
says '^MISSED hangs: no check finds it, the test ends by a hang'
says '^caught hangs-as-expected by a hang, as expected (it loops)'
says '^MISSED hangs-instead: no check finds it, the test ends by a hang'
says '^MISSED harmless: 30 configurations pass'
says '^3 passed, 4 failed'
[ $status -ne 0 ] || { echo "FAILED: status 0 with bugs that were missed"; failed=$((failed + 1)); }
[ $failed -eq 0 ] || sed 's/^/  /' "$tmp/out"
echo "$((9 - failed)) passed, $failed failed"
[ $failed -eq 0 ]
