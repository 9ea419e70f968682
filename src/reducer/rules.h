/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Rules by layer name and step: "*.bias|*norm*=none; *=none until 1000 then onebit+ef". */
#ifndef TW_RULES_H
#define TW_RULES_H

#include "core/core.h"

typedef struct tw_phase {
    tw_spec spec;
    uint64_t until; /* first step that it does not serve; UINT64_MAX: to the end */
} tw_phase;

typedef struct tw_rules tw_rules;

tw_status tw_rules_parse(tw_ctx *ctx, const char *text, tw_rules **out); /* NULL text: no rule */
void tw_rules_free(tw_rules *r);
uint64_t tw_rules_bytes(const tw_rules *r); /* of memory */
/* The phases for a layer name: first match wins; `none` if no rule matches. */
const tw_phase *tw_rules_find(const tw_rules *r, const char *name, uint32_t *n);
const tw_spec *tw_phase_at(const tw_phase *phase, uint32_t n, uint64_t step);
uint64_t tw_rules_hash(const tw_rules *r);
#define TW_RULES_HEAD 120                     /* with both heads, a sentence that says what differs is whole */
const char *tw_rules_head(const tw_rules *r); /* how the text begins */

#endif
