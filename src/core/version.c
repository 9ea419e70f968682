/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The version of the library that is loaded, from VERSION by way of configure. */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include "core/core.h"

#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "0.0.0"
#endif

const char *tw_version_string(void) {
    return PACKAGE_VERSION;
}

unsigned tw_version(void) {
    static const unsigned weight[3] = {10000, 100, 1};
    const char *p = PACKAGE_VERSION;
    unsigned version = 0;
    for (unsigned i = 0; i < 3; i++) {
        unsigned part = 0;
        for (; *p >= '0' && *p <= '9'; p++)
            part = part * 10 + (unsigned)(*p - '0');
        version += part * weight[i];
        if (*p != '.')
            break;
        p++;
    }
    return version;
}
