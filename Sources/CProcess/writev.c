#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

// LMDB hands all neighbouring pages of a commit to the kernel in one call, up to fifty packs. There are two things wrong
// with that, and its library has no setting for either:
//
// - For the page cache, Linux takes memory in pieces as large as the write is. Where it runs in a virtual machine, free
//   pieces of 2 MiB and more are those that the host may have taken back (free page reporting), and each has to be got from
//   the host first: writing takes up to ten times as long.
// - The disk has nothing to do until all is copied, and the processor nothing until all is on the disk.
//
// So what is long is written by the mebibyte, and the disk begins with each one at once. LMDB's library finds this function
// before glibc's, as a program's own come first.
enum { piece = 1 << 20 };

// Has the disk begin to write the last `count` bytes before the file's offset. That nobody can or may do that here is no
// failure; that the disk has failed is told, as a later sync may not tell it again.
static int begin_writing(int descriptor, off_t count)
{
    int old = errno;
    off_t end = lseek(descriptor, 0, SEEK_CUR);
    if (end >= 0 && sync_file_range(descriptor, end - count, count, SYNC_FILE_RANGE_WRITE) != 0
        && (errno == EIO || errno == ENOSPC || errno == EDQUOT))
        return -1;
    errno = old;
    return 0;
}

// writev(2).
ssize_t writev(int descriptor, const struct iovec *parts, int count)
{
    ssize_t done = 0;
    do {
        size_t bytes = 0;
        int taken = 0;
        while (taken < count && (taken == 0 || bytes + parts[taken].iov_len <= piece)) bytes += parts[taken++].iov_len;
        ssize_t written = syscall(SYS_writev, descriptor, parts, taken);
        if (written < 0) return done > 0 ? done : written;
        done += written;
        if ((size_t)written < bytes) return done;
        if (bytes > piece / 2 && begin_writing(descriptor, written) != 0) return -1;
        parts += taken;
        count -= taken;
    } while (count > 0);
    return done;
}
