#ifndef DEDUPDISK_CXEN_RING_H
#define DEDUPDISK_CXEN_RING_H
// The parts of <xen/io/ring.h> that need volatile accesses or barriers, over raw memory rather than a ring type, so
// that rings of every ABI can be served on one machine. cxen_ring.c checks the offsets against the header.
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Byte offsets of the shared indices, each 32 bits, and of the first slot.
enum {
    CXEN_RING_REQ_PROD = 0,
    CXEN_RING_REQ_EVENT = 4,
    CXEN_RING_RSP_PROD = 8,
    CXEN_RING_RSP_EVENT = 12,
    CXEN_RING_SLOTS = 64,
};

static inline uint32_t *cxen_ring_field(void *ring, size_t offset) {
    return (uint32_t *)((char *)ring + offset);
}

// SHARED_RING_INIT.
static inline void cxen_ring_init(void *ring) {
    memset(ring, 0, CXEN_RING_SLOTS);
    *cxen_ring_field(ring, CXEN_RING_REQ_EVENT) = 1;
    *cxen_ring_field(ring, CXEN_RING_RSP_EVENT) = 1;
}

// One fetch of an index. Slots are read after it (xen_rmb).
static inline uint32_t cxen_ring_load(void *ring, size_t offset) {
    return __atomic_load_n(cxen_ring_field(ring, offset), __ATOMIC_ACQUIRE);
}

// Publishes an index. Slots were written before it (xen_wmb).
static inline void cxen_ring_store(void *ring, size_t offset, uint32_t value) {
    __atomic_store_n(cxen_ring_field(ring, offset), value, __ATOMIC_RELEASE);
}

// RING_PUSH_*_AND_CHECK_NOTIFY: moves the producer from `from` to `to`; whether the other side wants an event.
// `from` is the caller's own copy, where ring.h reads it back from the shared page.
static inline bool cxen_ring_push(void *ring, size_t producer, size_t event, uint32_t from, uint32_t to) {
    cxen_ring_store(ring, producer, to);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return to - cxen_ring_load(ring, event) < to - from;
}

// The middle of RING_FINAL_CHECK_FOR_*: asks for an event at `value`. The caller looks at the producer once more.
static inline void cxen_ring_request_event(void *ring, size_t event, uint32_t value) {
    cxen_ring_store(ring, event, value);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

// RING_COPY_REQUEST, RING_COPY_RESPONSE: reads each byte of a slot once (XSA-155). The empty statements keep the
// compiler from fetching the slot again when the copy is used.
static inline void cxen_ring_copy_out(void *to, const void *slot, size_t count) {
    __asm__ __volatile__("" : : : "memory");
    memcpy(to, slot, count);
    __asm__ __volatile__("" : : "r"(to) : "memory");
}
#endif
