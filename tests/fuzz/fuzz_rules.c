/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The text of rules: what is taken serves any layer at any step. */
#include "fuzz.h"
#include "reducer/rules.h"

static void use(const tw_rules *r) {
    static const char *const names[] = {"", "layer.0.bias", "embed", "a/b*[c", "norm"};
    for (size_t i = 0; i < TW_ARRAY_LEN(names); i++) {
        uint32_t n;
        const tw_phase *phase = tw_rules_find(r, names[i], &n);
        FUZZ_REQUIRE(n > 0 && phase[n - 1].until == UINT64_MAX);
        for (uint32_t p = 0; p < n; p++) {
            FUZZ_REQUIRE(tw_spec_check(&phase[p].spec) == TW_OK);
            FUZZ_REQUIRE(p == 0 || phase[p].until > phase[p - 1].until);
            FUZZ_REQUIRE(tw_phase_at(phase, n, phase[p].until - 1) == &phase[p].spec);
        }
    }
}

FUZZ_TARGET(data, size) {
    tw_ctx *ctx;
    tw_rules *r = NULL;
    char *given = malloc(size + 1);
    FUZZ_REQUIRE(given && tw_ctx_resolve(NULL, &ctx) == TW_OK);
    memcpy(given, data, size);
    given[size] = 0;
    if (tw_rules_parse(ctx, given, &r) == TW_OK)
        use(r);
    else
        FUZZ_REQUIRE(strlen(tw_last_error()) > 10);
    tw_rules_free(r);
    free(given);
    return 0;
}

FUZZ_MAIN("rules");
