/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Status names and texts from the one list, and the sentence of each thread's last failure. */
#include "core/core.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char last_error[TW_SENTENCE];

const char *tw_status_name(tw_status s) {
    switch ((int)s) {
#define TW_X(name, value, text) \
    case value:                 \
        return "TW_" #name;
        TW_STATUS_MAP(TW_X)
#undef TW_X
    default:
        return "TW_STATUS_?";
    }
}

const char *tw_status_text(tw_status s) {
    switch ((int)s) {
#define TW_X(name, value, text) \
    case value:                 \
        return text;
        TW_STATUS_MAP(TW_X)
#undef TW_X
    default:
        return "unknown status";
    }
}

const char *tw_last_error(void) {
    return last_error;
}

/* Sentences quote what the caller gave: one stays one line. */
void tw_one_line(char *s) {
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = '?';
}

void tw_set_error(const char *sentence) {
    char copy[TW_SENTENCE]; /* sentence may be the buffer itself */
    snprintf(copy, sizeof copy, "%s", sentence ? sentence : "");
    tw_one_line(copy);
    memcpy(last_error, copy, sizeof copy);
}

tw_status tw_fail(tw_status s, const char *format, ...) {
    char text[TW_SENTENCE]; /* the arguments may point into the buffer: "rule 2: %s" around the last sentence */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    tw_set_error(text);
    return s;
}

tw_status tw_raise(tw_status s, const char *sentence) {
    tw_set_error(sentence);
    return s;
}
