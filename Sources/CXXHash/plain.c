#define XXH_INLINE_ALL
#include <xxhash.h>
#include "variants.h"

uint64_t cxxhash_plain(const void *bytes, size_t count, uint64_t seed)
{
    return XXH3_64bits_withSeed(bytes, count, seed);
}
