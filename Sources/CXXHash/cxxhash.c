#include "cxxhash.h"
#include "variants.h"

#ifdef __x86_64__
// Chosen when the program is loaded.
static uint64_t (*choose(void))(const void *, size_t, uint64_t)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") ? cxxhash_avx2 : cxxhash_plain;
}

uint64_t cxxhash_xxh3_64(const void *bytes, size_t count, uint64_t seed) __attribute__((ifunc("choose")));
#else
uint64_t cxxhash_xxh3_64(const void *bytes, size_t count, uint64_t seed)
{
    return cxxhash_plain(bytes, count, seed);
}
#endif
