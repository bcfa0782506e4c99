// XXH3 compiled in here: a call of the library's own takes twice as long for a block of 4 KiB. XXH_INLINE_ALL renames
// the functions with macros, which Swift does not see.
#define XXH_INLINE_ALL
#include <xxhash.h>

static inline unsigned long long cxxhash_xxh3_64(const void *bytes, size_t count, unsigned long long seed)
{
    return XXH3_64bits_withSeed(bytes, count, seed);
}
