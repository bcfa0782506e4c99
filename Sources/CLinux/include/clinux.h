#ifndef DEDUPDISK_CLINUX_H
#define DEDUPDISK_CLINUX_H
// Linux system calls that glibc declares under _GNU_SOURCE only, which Swift's Glibc module is built without.
// All return -1 and set errno on failure.
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// fallocate(2), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE.
int clinux_punch_hole(int descriptor, off_t offset, off_t count);

// fcntl(2), F_OFD_SETLK on the whole file: a write lock, or a read lock.
int clinux_lock(int descriptor, int exclusive);

// The same, F_UNLCK.
int clinux_unlock(int descriptor);

// fcntl(2), F_OFD_GETLK: 1 when another opening holds a lock, 0 when none does, -1 and errno.
int clinux_is_locked(int descriptor);

// A descriptor, closed on exec, of a new file that no path leads to: open(2) with O_TMPFILE, or, where the
// filesystem can't, mkostemp(3) and unlink(2).
int clinux_open_temporary(const char *directory);

// lseek(2): SEEK_DATA and SEEK_HOLE, which Swift does not see.
extern const int clinux_seek_data, clinux_seek_hole;

// mallopt(3): the sizes in bytes from which glibc maps a block of its own, and gives free memory back.
void clinux_tune_allocator(int mmap_threshold, int trim_threshold);

// pthread_mutexattr_settype(3): PTHREAD_MUTEX_ADAPTIVE_NP.
extern const int clinux_adaptive_mutex;

// Has the processor fetch the line of that address into its caches; nobody waits for it.
static inline void clinux_prefetch(const void *address) { __builtin_prefetch(address); }

// memcpy(3), also where the processor's own way is slow.
void clinux_copy(void *to, const void *from, size_t count);

// pthread_setname_np(3); a name of more than 15 bytes changes nothing.
void clinux_name_thread(pthread_t thread, const char *name);
#endif
