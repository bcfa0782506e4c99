#define _GNU_SOURCE
#include "clinux.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

int clinux_punch_hole(int descriptor, off_t offset, off_t count) {
    return fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, count);
}

int clinux_allocate(int descriptor, off_t count) { return fallocate(descriptor, 0, 0, count); }

int clinux_filesystem(const char *path, struct clinux_filesystem_status *found)
{
    struct statfs status;
    if (statfs(path, &status) != 0) return -1;
    found->type = (uint32_t)status.f_type;
    found->is_read_only = (status.f_flags & ST_RDONLY) != 0;
    found->block_bytes = (uint64_t)(status.f_frsize != 0 ? status.f_frsize : status.f_bsize);
    found->blocks = status.f_blocks;
    found->free_blocks = status.f_bfree;
    found->available_blocks = status.f_bavail;
    return 0;
}

// No bytes mean all of them (fcntl(2)).
int clinux_lock(int descriptor, int exclusive) { return clinux_lock_range(descriptor, exclusive, 0, 0); }

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

int clinux_is_locked(int descriptor) { return clinux_is_range_locked(descriptor, 1, 0, 0); }

int clinux_unlock(int descriptor) { return clinux_unlock_range(descriptor, 0, 0); }

int clinux_lock_range(int descriptor, int exclusive, off_t start, off_t count)
{
    struct flock range = { .l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = count };
    return fcntl(descriptor, F_OFD_SETLK, &range);
}

int clinux_unlock_range(int descriptor, off_t start, off_t count)
{
    struct flock range = { .l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = count };
    return fcntl(descriptor, F_OFD_SETLK, &range);
}

int clinux_is_range_locked(int descriptor, int exclusive, off_t start, off_t count)
{
    struct flock range = { .l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = count };
    if (fcntl(descriptor, F_OFD_GETLK, &range) != 0)
        return -1;
    return range.l_type != F_UNLCK;
}

pid_t clinux_process_id(void) { return (pid_t)syscall(SYS_getpid); }

static _Thread_local pid_t identity;
void clinux_set_identity(pid_t value) { identity = value; }
pid_t clinux_get_identity(void) { return identity; }

const int clinux_seek_data = SEEK_DATA, clinux_seek_hole = SEEK_HOLE;

void clinux_tune_allocator(int mmap_threshold, int trim_threshold)
{
    mallopt(M_MMAP_THRESHOLD, mmap_threshold);
    mallopt(M_TRIM_THRESHOLD, trim_threshold);
    mallopt(M_ARENA_MAX, 1);
}

void clinux_trim_allocator(void)
{
    malloc_trim(0);
}

void clinux_name_thread(pthread_t thread, const char *name)
{
    pthread_setname_np(thread, name);
}

const int clinux_adaptive_mutex = PTHREAD_MUTEX_ADAPTIVE_NP;
