// Valgrind has no room for the maps of terabytes that a store's databases ask for as address space. A benchmark's store is
// small: what it maps is cut to what it can come to use.
#define _GNU_SOURCE
#include "smallmaps.h"
#include <stdint.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static const size_t large = (size_t)32 << 30, enough = (size_t)8 << 30;

static size_t cut(size_t length) { return length > large ? enough : length; }

void *mmap64(void *address, size_t length, int protection, int flags, int descriptor, off_t offset) {
    return (void *)syscall(SYS_mmap, address, cut(length), protection, flags, descriptor, offset);
}

void *mmap(void *address, size_t length, int protection, int flags, int descriptor, off_t offset) {
    return mmap64(address, length, protection, flags, descriptor, offset);
}

int munmap(void *address, size_t length) { return (int)syscall(SYS_munmap, address, cut(length)); }
