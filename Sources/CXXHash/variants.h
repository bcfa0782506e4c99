#include <stddef.h>
#include <stdint.h>

uint64_t cxxhash_plain(const void *bytes, size_t count, uint64_t seed);
uint64_t cxxhash_avx2(const void *bytes, size_t count, uint64_t seed);
