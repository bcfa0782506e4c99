// What the benchmarks need of C: perf_event_open(2), and functions whose names valgrind is told.
#pragma once
#include <stdint.h>

enum cbench_event {
    /// Instructions in user space, by the processor's own counter.
    CBENCH_INSTRUCTIONS,
    /// Nanoseconds on a processor.
    CBENCH_TASK_CLOCK,
    /// A tracepoint of the kernel, by its number in tracefs.
    CBENCH_TRACEPOINT,
};

/// Opens a counter of this process, and of all threads and processes that it starts from now on. -1: it can't be had.
int cbench_open_counter(enum cbench_event event, uint64_t tracepoint);

/// What a counter has counted, or -1.
int64_t cbench_read_counter(int descriptor);

/// Called where a measurement begins, and where a row's is done: `callgrind --zero-before` and `--dump-before`. They do nothing.
void cbench_region_begins(void);
void cbench_row_ends(void);
