#define _GNU_SOURCE
#include "clinux.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int clinux_punch_hole(int descriptor, off_t offset, off_t count) {
    return fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, count);
}

int clinux_lock(int descriptor, int exclusive) {
    struct flock whole = { .l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET };
    return fcntl(descriptor, F_OFD_SETLK, &whole);
}

int clinux_open_temporary(const char *directory) {
    int descriptor = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    // What a kernel or a filesystem without O_TMPFILE answers (open(2)).
    if (descriptor >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)) return descriptor;
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/dedupdisk.XXXXXX", directory) >= (int)sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    descriptor = mkostemp(path, O_CLOEXEC);
    if (descriptor >= 0) unlink(path);
    return descriptor;
}

int clinux_is_locked(int descriptor)
{
    struct flock range = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    if (fcntl(descriptor, F_OFD_GETLK, &range) != 0)
        return -1;
    return range.l_type != F_UNLCK;
}

int clinux_unlock(int descriptor)
{
    struct flock whole = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
    return fcntl(descriptor, F_OFD_SETLK, &whole);
}

const int clinux_seek_data = SEEK_DATA, clinux_seek_hole = SEEK_HOLE;

void clinux_tune_allocator(int mmap_threshold, int trim_threshold)
{
    mallopt(M_MMAP_THRESHOLD, mmap_threshold);
    mallopt(M_TRIM_THRESHOLD, trim_threshold);
    mallopt(M_ARENA_MAX, 1);
}

void clinux_name_thread(pthread_t thread, const char *name)
{
    pthread_setname_np(thread, name);
}

const int clinux_adaptive_mutex = PTHREAD_MUTEX_ADAPTIVE_NP;
