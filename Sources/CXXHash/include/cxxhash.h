#ifndef DEDUPDISK_CXXHASH_H
#define DEDUPDISK_CXXHASH_H
// XXH3 of libxxhash, compiled in here (xxhash.h, XXH_INLINE_ALL) for the vectors that this processor has: the library's
// own is built for the least of them, and takes twice as long for a block of 4 KiB.
#include <stddef.h>
#include <stdint.h>

// XXH3_64bits_withSeed: 64 bits of `count` bytes.
uint64_t cxxhash_xxh3_64(const void *bytes, size_t count, uint64_t seed);
#endif
