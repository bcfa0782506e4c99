#ifndef RING_REFERENCE_H
#define RING_REFERENCE_H
// Rings driven by the macros of <xen/io/ring.h> over the structs of <xen/io/blkif.h>, to compare others with.
// All functions exist for the layout of x86_64 (as this machine's compiler lays the header's structs out) and
// of x86_32 (the same structs with 64-bit fields aligned to 4 bytes).
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct reference_segment { uint32_t gref; uint8_t first, last; };

// A request of any kind, as an argument.
struct reference_request {
    uint8_t operation, segment_count, flag, inner_operation;
    uint16_t handle, indirect_count;
    uint64_t id, sector, discard_count;
    struct reference_segment segments[11];
    uint32_t grefs[8];
};

struct reference_response {
    uint64_t id;
    uint8_t operation;
    int16_t status;
};

// A ring with its private indices. `sring` is the shared memory.
struct reference_front { uint32_t req_prod_pvt, rsp_cons; unsigned nr_ents; void *sring; };
struct reference_back { uint32_t rsp_prod_pvt, req_cons; unsigned nr_ents; void *sring; };

// Offsets of fields, by the compiler.
struct reference_layout {
    size_t slot, response, operation, segment_count, handle, id, sector, segments;
    size_t inner_operation, indirect_count, indirect_id, indirect_sector, indirect_handle, grefs;
    size_t flag, discard_handle, discard_id, discard_sector, discard_count;
    size_t response_id, response_operation, response_status;
    size_t segment, gref, first, last, slots;
};

#define REFERENCE_FUNCTIONS(abi)                                                                        \
    void abi##_layout(struct reference_layout *layout);                                                 \
    void abi##_front_init(struct reference_front *ring, void *memory, size_t size);                     \
    void abi##_front_attach(struct reference_front *ring, void *memory, size_t size, uint32_t index);   \
    void abi##_back_attach(struct reference_back *ring, void *memory, size_t size, uint32_t index);     \
    bool abi##_post(struct reference_front *ring, const struct reference_request *request);             \
    bool abi##_push_requests(struct reference_front *ring);                                             \
    bool abi##_next_response(struct reference_front *ring, struct reference_response *response);        \
    bool abi##_final_check_responses(struct reference_front *ring);                                     \
    bool abi##_next_request(struct reference_back *ring, struct reference_request *request);            \
    bool abi##_respond(struct reference_back *ring, const struct reference_response *response);         \
    bool abi##_push_responses(struct reference_back *ring);                                             \
    bool abi##_final_check_requests(struct reference_back *ring);

REFERENCE_FUNCTIONS(x86_64)
REFERENCE_FUNCTIONS(x86_32)
#endif
