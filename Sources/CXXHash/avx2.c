#include "variants.h"
#ifdef __x86_64__
#include <immintrin.h>
#define XXH_INLINE_ALL
#define XXH_VECTOR 2 // XXH_AVX2, which xxhash.h defines later
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#include <xxhash.h>

uint64_t cxxhash_avx2(const void *bytes, size_t count, uint64_t seed)
{
    return XXH3_64bits_withSeed(bytes, count, seed);
}
#pragma clang attribute pop
#endif
