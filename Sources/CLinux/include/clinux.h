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

// fallocate(2) of the first `count` bytes, without libc's way around it, which is not safe beside others.
int clinux_allocate(int descriptor, off_t count);

// statfs(2): what kind the filesystem of a path is, whether it is mounted read-only, and its blocks: all, those that are free, and those of these
// that others than root can have.
struct clinux_filesystem_status {
    uint32_t type;
    int is_read_only;
    uint64_t block_bytes, blocks, free_blocks, available_blocks;
};
int clinux_filesystem(const char *path, struct clinux_filesystem_status *found);

// fcntl(2), F_OFD_SETLK on the whole file: a write lock, or a read lock.
int clinux_lock(int descriptor, int exclusive);

// The same, F_UNLCK.
int clinux_unlock(int descriptor);

// fcntl(2), F_OFD_GETLK: 1 when another opening holds a lock, 0 when none does, -1 and errno.
int clinux_is_locked(int descriptor);

// The same for `count` bytes from `start` on: a write lock, or a read lock.
int clinux_lock_range(int descriptor, int exclusive, off_t start, off_t count);
int clinux_unlock_range(int descriptor, off_t start, off_t count);
// Whether a write lock, or a read lock, there would find another opening in the way: 1, 0, or -1 and errno.
int clinux_is_range_locked(int descriptor, int exclusive, off_t start, off_t count);

// A descriptor, closed on exec, of a new file that no path leads to: open(2) with O_TMPFILE, or, where the
// filesystem can't, mkostemp(3) and unlink(2).
int clinux_open_temporary(const char *directory);

// A descriptor, closed on exec, of a new file in the directory that is open as `directory`, without a name: openat(2), O_TMPFILE.
// -1 with errno EOPNOTSUPP: there can be none here, or none that `clinux_name_temporary` could give a name.
int clinux_open_unnamed(int directory, mode_t mode);

// Gives such a file its first name, which must be free: linkat(2) by way of /proc/self/fd.
int clinux_name_temporary(int descriptor, int directory, const char *name);

// openat(2): a new file of that name, O_CREAT | O_EXCL, closed on exec.
int clinux_create_at(int directory, const char *name, mode_t mode);

// fcntl(2), F_OFD_GETLK: 1 when another opening says that it writes to the file, 0 when none does, -1 and errno. It says so by a
// write lock, or as QEMU does: by a read lock of byte 101.
int clinux_is_written(int descriptor);

// Whether a descriptor merely names a file, so that nothing can be read or written through it: fcntl(2), O_PATH.
int clinux_only_names(int descriptor);

// The process at the other end of a UNIX socket: getsockopt(2), SO_PEERCRED. 0: it has no number here.
pid_t clinux_peer(int descriptor);

// Gives the socket at `path` to a user and a group, with these permissions: open(2) with O_PATH, fchownat(2), chmod(2). Does nothing to what is no
// socket. 0, or an error number.
int clinux_give_socket(const char *path, uid_t user, gid_t group, mode_t mode);

// getxattr(2), fsetxattr(2), fremovexattr(2) of the access control list that POSIX.1e drafted (acl(5)).
ssize_t clinux_get_acl(const char *path, void *value, size_t size);
int clinux_set_acl(int descriptor, const void *value, size_t size);
int clinux_remove_acl(int descriptor);

// fallocate(2), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE.
int clinux_zero_range(int descriptor, off_t offset, off_t count);

// major(3) and minor(3).
unsigned clinux_major(dev_t device);
unsigned clinux_minor(dev_t device);

// lseek(2): SEEK_DATA and SEEK_HOLE, which Swift does not see.
extern const int clinux_seek_data, clinux_seek_hole;

// mallopt(3): the sizes in bytes from which glibc maps a block of its own, and gives free memory back.
void clinux_tune_allocator(int mmap_threshold, int trim_threshold);

// malloc_trim(3): gives what is free back, all of it.
void clinux_trim_allocator(void);

// pthread_mutexattr_settype(3): PTHREAD_MUTEX_ADAPTIVE_NP.
extern const int clinux_adaptive_mutex;

// Has the processor fetch the line of that address into its caches; nobody waits for it.
static inline void clinux_prefetch(const void *address) { __builtin_prefetch(address); }

// memcpy(3), also where the processor's own way is slow.
void clinux_copy(void *to, const void *from, size_t count);

// getpid(2), whatever `clinux_identity` is.
pid_t clinux_process_id(void);

// What getpid(2) is to answer in this thread instead of the process's id; 0: nothing else. It does where the program has a
// getpid of its own (CProcess).
void clinux_set_identity(pid_t identity);
pid_t clinux_get_identity(void);

// A process that holds what others wait for should not be stopped from its terminal (SIGTSTP): it stops when it has let go.
// Between the two calls, which nest, it does not; what was asked for meanwhile happens with the last `end`. 0: it has been asked for
// and is not over, so nothing was begun; a thread that is within already is never told that.
int clinux_begin_unstoppable(void);
void clinux_end_unstoppable(void);
// Waits until the process has been stopped, and continued. For a thread that others do not wait for.
void clinux_await_stop(void);
// Has SIGTSTP, unless it is ignored, wait for that. For the program's start.
void clinux_defer_stops(void);

// pthread_setname_np(3); a name of more than 15 bytes changes nothing.
void clinux_name_thread(pthread_t thread, const char *name);
#endif
