#ifndef DEDUPDISK_LIBFUZZER_H
#define DEDUPDISK_LIBFUZZER_H
#include <stddef.h>
#include <stdint.h>

// libFuzzer's own entry (compiler-rt, FuzzerInterface.h), for which no header is installed.
int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*target)(const uint8_t *data, size_t size));
#endif
