#ifndef DEDUPDISK_CXEN_H
#define DEDUPDISK_CXEN_H
#include <xenstore.h>
#include <xengnttab.h>
#include <xenevtchn.h>
#endif
