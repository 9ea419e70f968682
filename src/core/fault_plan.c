/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The text of THINWIRE_FAULT: ITEM {"," ITEM}; ITEM := KIND ":" VALUE ["@" RANK]. What the kinds do: reducer/fault.h. */
#include "core/core.h"

#include <stdarg.h>
#include <stdio.h>

#define LONGEST_DELAY_S 60.0

static const char *const kind_name[] = {"drop", "corrupt", "truncate", "stop", "mute", "delay", "nan"};
_Static_assert(TW_ARRAY_LEN(kind_name) == TW_FAULT_KINDS, "a name for each kind");

static bool bad(tw_fault_plan *p, const char *item, const char *format, ...) TW_PRINTF(3, 4);
static bool bad(tw_fault_plan *p, const char *item, const char *format, ...) {
    char why[160];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    snprintf(p->problem, sizeof p->problem, "'%.60s': %s", item, why);
    return false;
}

/* Digits and nothing else. */
static bool whole_number(const char *text, uint64_t most, uint64_t *out) {
    uint64_t v = 0;
    if (!*text)
        return false;
    for (; *text; text++) {
        uint64_t digit = (uint64_t)(*text - '0');
        if (*text < '0' || *text > '9' || digit > most || v > (most - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    *out = v;
    return true;
}

/* "5ms", "0.2s", "100us" */
static bool delay(const char *text, double *out) {
    static const struct {
        const char *unit;
        double seconds;
    } units[] = {{"us", 1e-6}, {"ms", 1e-3}, {"s", 1.0}};
    char number[32];
    size_t n = strcspn(text, "ums");
    if (n >= sizeof number)
        return false;
    memcpy(number, text, n);
    number[n] = '\0';
    double v = tw_plain_number(number);
    for (size_t i = 0; i < TW_ARRAY_LEN(units); i++)
        if (!strcmp(text + n, units[i].unit)) {
            *out = v * units[i].seconds;
            return v >= 0 && *out <= LONGEST_DELAY_S;
        }
    return false;
}

static bool parse_layer(tw_fault_plan *p, tw_fault *f, const char *name) {
    if (!*name || strlen(name) >= sizeof f->layer)
        return bad(p, f->text, "a layer's name of 1 to %zu bytes is wanted", sizeof f->layer - 1);
    strcpy(f->layer, name);
    for (const tw_fault *x = p->fault; x < f; x++)
        if (x->kind == TW_FAULT_NAN && (x->rank < 0 || f->rank < 0 || x->rank == f->rank))
            return bad(p, f->text, "a rank can have one nan fault, and '%.60s' is there already", x->text);
    return true;
}

static bool parse_value(tw_fault_plan *p, tw_fault *f, const char *value) {
    switch (f->kind) {
    case TW_FAULT_NAN:
        return parse_layer(p, f, value);
    case TW_FAULT_DELAY:
        return delay(value, &f->delay_s) || bad(p, f->text, "a delay is a number with us, ms or s, at most 60s");
    case TW_FAULT_MUTE:
        return (whole_number(value, 2, &f->frame) && f->frame > 0) || bad(p, f->text, "a hop is 1 or 2");
    case TW_FAULT_STOP:
        return whole_number(value, UINT64_MAX, &f->frame) || bad(p, f->text, "stop wants a number of frames");
    default:
        return (whole_number(value, UINT64_MAX, &f->frame) && f->frame > 0) ||
               bad(p, f->text, "a frame is a number from 1");
    }
}

/* item: KIND:VALUE[@RANK]; it is cut into its parts. */
static bool parse_item(tw_fault_plan *p, tw_fault *f, char *item) {
    char *at = strrchr(item, '@'), *colon = strchr(item, ':');
    uint64_t rank;
    f->rank = -1;
    if (at) {
        if (!whole_number(at + 1, INT32_MAX, &rank))
            return bad(p, f->text, "@ wants a rank");
        f->rank = (int)rank;
        *at = '\0';
    }
    if (!colon || (at && at < colon))
        return bad(p, f->text, "a fault is KIND:VALUE, like drop:3");
    *colon = '\0';
    uint32_t kind = 0;
    while (kind < TW_FAULT_KINDS && strcmp(item, kind_name[kind]) != 0)
        kind++;
    if (kind == TW_FAULT_KINDS)
        return bad(p, f->text, "unknown fault; did you mean '%s'?",
                   tw_nearest_word(item, strlen(item), kind_name, TW_FAULT_KINDS));
    f->kind = (tw_fault_kind)kind;
    return parse_value(p, f, colon + 1);
}

bool tw_fault_plan_parse(const char *text, tw_fault_plan *p) {
    p->n = 0;
    for (const char *item = text;; item++) {
        item += strspn(item, " ");
        size_t len = strcspn(item, ",");
        char copy[sizeof p->fault->text];
        if (p->n == TW_MOST_FAULTS)
            return bad(p, item, "more than %u faults", TW_MOST_FAULTS);
        if (len == 0 || len >= sizeof copy)
            return bad(p, item, len ? "that fault is too long" : "a fault is missing here");
        tw_fault *f = &p->fault[p->n++];
        memcpy(copy, item, len);
        copy[len] = '\0';
        memcpy(f->text, copy, len + 1);
        if (!parse_item(p, f, copy))
            return false;
        item += len;
        if (!*item)
            return true;
    }
}
