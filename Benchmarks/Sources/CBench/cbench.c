#define _GNU_SOURCE
#include "cbench.h"
#include <linux/perf_event.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int cbench_open_counter(enum cbench_event event, uint64_t tracepoint) {
    struct perf_event_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.size = sizeof attributes;
    attributes.inherit = 1;
    switch (event) {
    case CBENCH_INSTRUCTIONS:
        attributes.type = PERF_TYPE_HARDWARE;
        attributes.config = PERF_COUNT_HW_INSTRUCTIONS;
        attributes.exclude_kernel = 1;
        attributes.exclude_hv = 1;
        break;
    case CBENCH_TASK_CLOCK:
        attributes.type = PERF_TYPE_SOFTWARE;
        attributes.config = PERF_COUNT_SW_TASK_CLOCK;
        break;
    case CBENCH_TRACEPOINT:
        attributes.type = PERF_TYPE_TRACEPOINT;
        attributes.config = tracepoint;
        break;
    }
    return (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

int64_t cbench_read_counter(int descriptor) {
    int64_t value;
    return read(descriptor, &value, sizeof value) == sizeof value ? value : -1;
}

// The empty statement keeps calls from being left out as without effect.
__attribute__((noinline)) void cbench_region_begins(void) { __asm__ volatile("" ::: "memory"); }
__attribute__((noinline)) void cbench_row_ends(void) { __asm__ volatile("" ::: "memory"); }
