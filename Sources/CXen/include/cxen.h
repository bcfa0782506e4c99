#ifndef DEDUPDISK_CXEN_H
#define DEDUPDISK_CXEN_H
#include "cxen_ring.h"
#include <xenstore.h>
#include <xengnttab.h>
#include <xenevtchn.h>
#endif
