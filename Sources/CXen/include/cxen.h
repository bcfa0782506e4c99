#ifndef DEDUPDISK_CXEN_H
#define DEDUPDISK_CXEN_H
#include "cxen_ring.h"
#include <xenstore.h>
#include <xengnttab.h>
#include <xenevtchn.h>
#include <xentoollog.h>
#include <sys/eventfd.h>

/* A logger that drops what the libraries would print on standard error: our errors are one line each, and ours. */
xentoollog_logger *cxen_silent_logger(void);

/* For the simulation: what Swift's Glibc module leaves out. Both return a descriptor, or -1 and errno. */
int cxen_memory_file(void);
int cxen_event_descriptor(void);

/* The two directions of a grant copy, as functions: Swift sees the segment's unions only through accessors. */
static inline void cxen_copy_from_grant(xengnttab_grant_copy_segment_t *segments, long index, uint16_t domain, uint32_t reference,
                                        uint16_t offset, void *local, uint16_t length)
{
    xengnttab_grant_copy_segment_t *segment = segments + index;
    segment->source.foreign.ref = reference;
    segment->source.foreign.offset = offset;
    segment->source.foreign.domid = domain;
    segment->dest.virt = local;
    segment->len = length;
    segment->flags = GNTCOPY_source_gref;
    segment->status = GNTST_general_error;
}

static inline void cxen_copy_to_grant(xengnttab_grant_copy_segment_t *segments, long index, uint16_t domain, uint32_t reference,
                                      uint16_t offset, void *local, uint16_t length)
{
    xengnttab_grant_copy_segment_t *segment = segments + index;
    segment->source.virt = local;
    segment->dest.foreign.ref = reference;
    segment->dest.foreign.offset = offset;
    segment->dest.foreign.domid = domain;
    segment->len = length;
    segment->flags = GNTCOPY_dest_gref;
    segment->status = GNTST_general_error;
}

/* Has a copy to a grant take other memory, which is not written to. */
static inline void cxen_copy_from(xengnttab_grant_copy_segment_t *segments, long index, const void *local)
{
    segments[index].source.virt = (void *)local;
    segments[index].status = GNTST_general_error;
}
#endif
