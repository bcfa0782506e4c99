// The body of both ABIs: the macros do the work. Included once per ABI, after its request_t ... response_t.
// Where the macros leave padding of a slot alone, it is zeroed, as the rings under test do.
#include <xen/io/ring.h>

// Left to the user of ring.h.
#define xen_mb() __sync_synchronize()
#define xen_rmb() __sync_synchronize()
#define xen_wmb() __sync_synchronize()

DEFINE_RING_TYPES(reference, request_t, response_t);

static reference_front_ring_t front(const struct reference_front *r) {
    return (reference_front_ring_t){ r->req_prod_pvt, r->rsp_cons, r->nr_ents, r->sring };
}
static void keep_front(struct reference_front *r, const reference_front_ring_t *f) {
    r->req_prod_pvt = f->req_prod_pvt; r->rsp_cons = f->rsp_cons; r->nr_ents = f->nr_ents; r->sring = f->sring;
}
static reference_back_ring_t back(const struct reference_back *r) {
    return (reference_back_ring_t){ r->rsp_prod_pvt, r->req_cons, r->nr_ents, r->sring };
}
static void keep_back(struct reference_back *r, const reference_back_ring_t *b) {
    r->rsp_prod_pvt = b->rsp_prod_pvt; r->req_cons = b->req_cons; r->nr_ents = b->nr_ents; r->sring = b->sring;
}

void ABI(layout)(struct reference_layout *l) {
    *l = (struct reference_layout){
        .slot = sizeof(union reference_sring_entry), .response = sizeof(response_t),
        .operation = offsetof(request_t, operation), .segment_count = offsetof(request_t, nr_segments),
        .handle = offsetof(request_t, handle), .id = offsetof(request_t, id),
        .sector = offsetof(request_t, sector_number), .segments = offsetof(request_t, seg),
        .inner_operation = offsetof(indirect_t, indirect_op), .indirect_count = offsetof(indirect_t, nr_segments),
        .indirect_id = offsetof(indirect_t, id), .indirect_sector = offsetof(indirect_t, sector_number),
        .indirect_handle = offsetof(indirect_t, handle), .grefs = offsetof(indirect_t, indirect_grefs),
        .flag = offsetof(discard_t, flag), .discard_handle = offsetof(discard_t, handle),
        .discard_id = offsetof(discard_t, id), .discard_sector = offsetof(discard_t, sector_number),
        .discard_count = offsetof(discard_t, nr_sectors),
        .response_id = offsetof(response_t, id), .response_operation = offsetof(response_t, operation),
        .response_status = offsetof(response_t, status),
        .segment = sizeof(struct blkif_request_segment), .gref = offsetof(struct blkif_request_segment, gref),
        .first = offsetof(struct blkif_request_segment, first_sect),
        .last = offsetof(struct blkif_request_segment, last_sect),
        .slots = offsetof(struct reference_sring, ring),
    };
}

void ABI(front_init)(struct reference_front *r, void *memory, size_t size) {
    reference_front_ring_t f;
    reference_sring_t *shared = memory;
    XEN_FRONT_RING_INIT(&f, shared, size);
    keep_front(r, &f);
}

void ABI(front_attach)(struct reference_front *r, void *memory, size_t size, uint32_t index) {
    reference_front_ring_t f;
    reference_sring_t *shared = memory;
    FRONT_RING_ATTACH(&f, shared, index, size);
    keep_front(r, &f);
}

void ABI(back_attach)(struct reference_back *r, void *memory, size_t size, uint32_t index) {
    reference_back_ring_t b;
    reference_sring_t *shared = memory;
    BACK_RING_ATTACH(&b, shared, index, size);
    keep_back(r, &b);
}

bool ABI(post)(struct reference_front *r, const struct reference_request *q) {
    reference_front_ring_t f = front(r);
    if (RING_FULL(&f)) return false;
    request_t *slot = RING_GET_REQUEST(&f, f.req_prod_pvt);
    memset(slot, 0, sizeof(union reference_sring_entry));
    if (q->operation == BLKIF_OP_INDIRECT) {
        indirect_t *indirect = (indirect_t *)slot;
        indirect->operation = q->operation;
        indirect->indirect_op = q->inner_operation;
        indirect->nr_segments = q->indirect_count;
        indirect->id = q->id;
        indirect->sector_number = q->sector;
        indirect->handle = q->handle;
        memcpy(indirect->indirect_grefs, q->grefs, sizeof q->grefs);
    } else if (q->operation == BLKIF_OP_DISCARD) {
        discard_t *discard = (discard_t *)slot;
        discard->operation = q->operation;
        discard->flag = q->flag;
        discard->handle = q->handle;
        discard->id = q->id;
        discard->sector_number = q->sector;
        discard->nr_sectors = q->discard_count;
    } else {
        slot->operation = q->operation;
        slot->nr_segments = q->segment_count;
        slot->handle = q->handle;
        slot->id = q->id;
        slot->sector_number = q->sector;
        for (int i = 0; i < 11; i++) {
            slot->seg[i].gref = q->segments[i].gref;
            slot->seg[i].first_sect = q->segments[i].first;
            slot->seg[i].last_sect = q->segments[i].last;
        }
    }
    f.req_prod_pvt++;
    keep_front(r, &f);
    return true;
}

bool ABI(push_requests)(struct reference_front *r) {
    reference_front_ring_t f = front(r);
    bool notify;
    RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&f, notify);
    return notify;
}

bool ABI(next_response)(struct reference_front *r, struct reference_response *p) {
    reference_front_ring_t f = front(r);
    if (!RING_HAS_UNCONSUMED_RESPONSES(&f)) return false;
    response_t copy;
    RING_COPY_RESPONSE(&f, f.rsp_cons, &copy);
    *p = (struct reference_response){ copy.id, copy.operation, copy.status };
    f.rsp_cons++;
    keep_front(r, &f);
    return true;
}

bool ABI(final_check_responses)(struct reference_front *r) {
    reference_front_ring_t f = front(r);
    unsigned work;
    RING_FINAL_CHECK_FOR_RESPONSES(&f, work);
    return work != 0;
}

bool ABI(next_request)(struct reference_back *r, struct reference_request *q) {
    reference_back_ring_t b = back(r);
    if (!RING_HAS_UNCONSUMED_REQUESTS(&b)) return false;
    request_t copy;
    RING_COPY_REQUEST(&b, b.req_cons, &copy);
    memset(q, 0, sizeof *q);
    q->operation = copy.operation;
    if (copy.operation == BLKIF_OP_INDIRECT) {
        const indirect_t *indirect = (const indirect_t *)&copy;
        q->inner_operation = indirect->indirect_op;
        q->indirect_count = indirect->nr_segments;
        q->id = indirect->id;
        q->sector = indirect->sector_number;
        q->handle = indirect->handle;
        memcpy(q->grefs, indirect->indirect_grefs, sizeof q->grefs);
    } else if (copy.operation == BLKIF_OP_DISCARD) {
        const discard_t *discard = (const discard_t *)&copy;
        q->flag = discard->flag;
        q->handle = discard->handle;
        q->id = discard->id;
        q->sector = discard->sector_number;
        q->discard_count = discard->nr_sectors;
    } else {
        q->segment_count = copy.nr_segments;
        q->handle = copy.handle;
        q->id = copy.id;
        q->sector = copy.sector_number;
        for (int i = 0; i < 11; i++) {
            q->segments[i].gref = copy.seg[i].gref;
            q->segments[i].first = copy.seg[i].first_sect;
            q->segments[i].last = copy.seg[i].last_sect;
        }
    }
    b.req_cons++;
    keep_back(r, &b);
    return true;
}

bool ABI(respond)(struct reference_back *r, const struct reference_response *p) {
    reference_back_ring_t b = back(r);
    if (b.rsp_prod_pvt == b.req_cons) return false;
    response_t *slot = RING_GET_RESPONSE(&b, b.rsp_prod_pvt);
    memset(slot, 0, sizeof *slot);
    slot->id = p->id;
    slot->operation = p->operation;
    slot->status = p->status;
    b.rsp_prod_pvt++;
    keep_back(r, &b);
    return true;
}

bool ABI(push_responses)(struct reference_back *r) {
    reference_back_ring_t b = back(r);
    bool notify;
    RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&b, notify);
    return notify;
}

bool ABI(final_check_requests)(struct reference_back *r) {
    reference_back_ring_t b = back(r);
    unsigned work;
    RING_FINAL_CHECK_FOR_REQUESTS(&b, work);
    return work != 0;
}
