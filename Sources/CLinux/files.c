#define _GNU_SOURCE
#include "clinux.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

int clinux_open_unnamed(int directory, mode_t mode)
{
    // Without it, the file could never be named.
    if (access("/proc/self/fd", X_OK) != 0) {
        errno = EOPNOTSUPP;
        return -1;
    }
    int descriptor = openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode);
    // What a kernel or a filesystem without O_TMPFILE answers (open(2)).
    if (descriptor < 0 && (errno == EISDIR || errno == ENOENT || errno == EINVAL))
        errno = EOPNOTSUPP;
    return descriptor;
}

int clinux_name_temporary(int descriptor, int directory, const char *name)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    return linkat(AT_FDCWD, path, directory, name, AT_SYMLINK_FOLLOW);
}

int clinux_create_at(int directory, const char *name, mode_t mode)
{
    return openat(directory, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
}

int clinux_is_written(int descriptor)
{
    struct flock range = { .l_type = F_RDLCK, .l_whence = SEEK_SET };
    if (fcntl(descriptor, F_OFD_GETLK, &range) != 0)
        return -1;
    if (range.l_type != F_UNLCK)
        return 1;
    // RAW_LOCK_PERM_BASE + BLK_PERM_WRITE's bit, of QEMU's block/file-posix.c.
    struct flock qemu = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1 };
    if (fcntl(descriptor, F_OFD_GETLK, &qemu) != 0)
        return -1;
    // Who reads has locked more than that byte.
    return qemu.l_type != F_UNLCK && qemu.l_start >= 100 && qemu.l_len > 0 && qemu.l_len <= 8;
}

int clinux_only_names(int descriptor)
{
    int flags = fcntl(descriptor, F_GETFL);
    return flags >= 0 && (flags & O_PATH) != 0;
}

int clinux_give_socket(const char *path, uid_t user, gid_t group, mode_t mode)
{
    // Who may write to the directory may put something else there at any time: what is given is what was looked at.
    int descriptor = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat status;
    if (descriptor < 0)
        return errno;
    int code = 0;
    char path_of[32];
    snprintf(path_of, sizeof path_of, "/proc/self/fd/%d", descriptor);
    if (fstat(descriptor, &status) != 0)
        code = errno;
    else if (S_ISSOCK(status.st_mode)) {
        if (fchownat(descriptor, "", user, group, AT_EMPTY_PATH) != 0)
            code = errno;
        // bind(2) has taken the umask away. Without /proc it stays so.
        chmod(path_of, mode);
    }
    close(descriptor);
    return code;
}

pid_t clinux_peer(int descriptor)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    return getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
}

static const char acl[] = "system.posix_acl_access";

ssize_t clinux_get_acl(const char *path, void *value, size_t size) { return getxattr(path, acl, value, size); }
int clinux_set_acl(int descriptor, const void *value, size_t size) { return fsetxattr(descriptor, acl, value, size, 0); }
int clinux_remove_acl(int descriptor) { return fremovexattr(descriptor, acl); }

int clinux_zero_range(int descriptor, off_t offset, off_t count)
{
    return fallocate(descriptor, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, count);
}

unsigned clinux_major(dev_t device) { return major(device); }
unsigned clinux_minor(dev_t device) { return minor(device); }
