// What cxen_ring.h takes for granted, against Xen's own header.
#include "cxen_ring.h"

// Otherwise ring.h means a version so old that it calls mb(), which its user must define.
#define __XEN_INTERFACE_VERSION__ __XEN_LATEST_INTERFACE_VERSION__
#include <xen/xen-compat.h>
#include <xen/io/blkif.h>

_Static_assert(offsetof(struct blkif_sring, req_prod) == CXEN_RING_REQ_PROD, "req_prod");
_Static_assert(offsetof(struct blkif_sring, req_event) == CXEN_RING_REQ_EVENT, "req_event");
_Static_assert(offsetof(struct blkif_sring, rsp_prod) == CXEN_RING_RSP_PROD, "rsp_prod");
_Static_assert(offsetof(struct blkif_sring, rsp_event) == CXEN_RING_RSP_EVENT, "rsp_event");
_Static_assert(offsetof(struct blkif_sring, ring) == CXEN_RING_SLOTS, "ring");
_Static_assert(sizeof(RING_IDX) == sizeof(uint32_t), "RING_IDX");
