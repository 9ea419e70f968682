/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The table of feedbacks. */
#include "feedback/feedback.h"

static const tw_feedback *const table[TW_FEEDBACKS] = {
    [TW_FEEDBACK_NONE] = &tw_feedback_none,
    [TW_FEEDBACK_EF] = &tw_feedback_ef,
    [TW_FEEDBACK_DECAY] = &tw_feedback_decay,
    [TW_FEEDBACK_DGC] = &tw_feedback_dgc,
};

const tw_feedback *tw_feedback_get(uint32_t id) {
    return id < TW_FEEDBACKS ? table[id] : NULL;
}
