/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The text of specs: what is taken is valid, and is the same after it was written and read again. */
#include "fuzz.h"
#include "core/core.h"

FUZZ_TARGET(data, size) {
    tw_spec s, again;
    char text[256], *given = malloc(size + 1);
    FUZZ_REQUIRE(given);
    memcpy(given, data, size);
    given[size] = 0;
    if (tw_spec_parse(given, &s) == TW_OK) {
        int len = tw_spec_format(&s, text, sizeof text);
        FUZZ_REQUIRE(len > 0 && len < (int)sizeof text);
        FUZZ_REQUIRE(tw_spec_check(&s) == TW_OK);
        FUZZ_REQUIRE(tw_spec_parse(text, &again) == TW_OK && tw_spec_equal(&s, &again));
        FUZZ_REQUIRE(tw_spec_bound(&s, 10000, TW_F32) > 0);
    } else {
        FUZZ_REQUIRE(strlen(tw_last_error()) > 10);
    }
    free(given);
    return 0;
}

FUZZ_MAIN("spec");
