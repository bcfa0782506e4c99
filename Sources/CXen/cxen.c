#define _GNU_SOURCE
#include "cxen.h"
#include <sys/mman.h>

static void drop_message(xentoollog_logger *logger, xentoollog_level level, int error, const char *context,
                         const char *format, va_list arguments)
{
    (void)logger, (void)level, (void)error, (void)context, (void)format, (void)arguments;
}

static void keep(xentoollog_logger *logger) { (void)logger; }

xentoollog_logger *cxen_silent_logger(void)
{
    static xentoollog_logger logger = { drop_message, 0, keep };
    return &logger;
}

int cxen_memory_file(void) { return memfd_create("simulated machine", MFD_CLOEXEC); }

int cxen_event_descriptor(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }
