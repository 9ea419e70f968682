/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The 32-byte frame header. Everything received is checked here before it is used. */
#include "exec/exec.h"

typedef struct header {
    uint32_t magic;
    uint8_t version, flags, hop, epoch;
    uint64_t plan;
    uint32_t step, frame, len, check;
} header;
_Static_assert(sizeof(header) == TW_HEADER_BYTES, "the header has no padding");

/* Over the whole frame with the check word as zero: header and payload are covered by one pass. */
static uint32_t frame_check_word(const uint8_t *frame, uint64_t len) {
    uint32_t head = tw_check32(frame, TW_HEADER_BYTES - sizeof(uint32_t), 0);
    return tw_check32(frame + TW_HEADER_BYTES, len - TW_HEADER_BYTES, head);
}

void tw_frame_seal(uint8_t *frame, uint32_t len, uint32_t hop, uint32_t index, tw_stamp s, uint32_t flags) {
    header h = {.magic = TW_MAGIC,
                .version = TW_WIRE_VERSION,
                .flags = (uint8_t)flags,
                .hop = (uint8_t)hop,
                .epoch = s.epoch,
                .plan = s.plan,
                .step = s.step,
                .frame = index,
                .len = len};
    memcpy(frame, &h, sizeof h);
    h.check = frame_check_word(frame, len);
    memcpy(frame, &h, sizeof h);
}

bool tw_frame_is_poison(const uint8_t *frame, uint64_t len) {
    header h;
    if (len < sizeof h)
        return false;
    memcpy(&h, frame, sizeof h);
    return h.magic == TW_MAGIC && h.version == TW_WIRE_VERSION && (h.flags & TW_FRAME_POISON) && h.len == len &&
           h.check == frame_check_word(frame, len);
}

tw_status tw_frame_check(const uint8_t *frame, uint64_t len, uint32_t hop, uint32_t index, tw_stamp s, int who) {
    header h;
    if (len < sizeof h)
        return tw_fail(TW_ERR_CORRUPT, "rank %d: frame %u of hop %u has %llu bytes, less than a header", who, index,
                       hop, (unsigned long long)len);
    memcpy(&h, frame, sizeof h);
    if (h.magic != TW_MAGIC || h.len != len || h.check != frame_check_word(frame, len))
        return tw_fail(TW_ERR_CORRUPT, "rank %d: frame %u of hop %u (%llu bytes) fails its check", who, index, hop,
                       (unsigned long long)len);
    if (h.version != TW_WIRE_VERSION)
        return tw_fail(TW_ERR_MISMATCH, "rank %d speaks wire version %u, this rank %u", who, h.version,
                       TW_WIRE_VERSION);
    if (h.step != s.step)
        return tw_fail(TW_ERR_MISMATCH, "rank %d is at step %u, this rank at step %u", who, h.step, s.step);
    if (h.epoch != s.epoch)
        return tw_fail(TW_ERR_MISMATCH,
                       "rank %d has ended %u steps (modulo 256), this rank %u: one of them discarded or reset alone",
                       who, h.epoch, s.epoch);
    if (h.plan != s.plan)
        return tw_fail(TW_ERR_MISMATCH, "rank %d posted another op: layers, pieces, specs or options differ", who);
    if (h.hop != hop || h.frame != index)
        return tw_fail(TW_ERR_CORRUPT, "rank %d sent frame %u of hop %u where frame %u of hop %u was due", who, h.frame,
                       h.hop, index, hop);
    return TW_OK;
}
