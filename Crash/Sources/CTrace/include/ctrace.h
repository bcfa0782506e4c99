#pragma once
#include <stdint.h>

// Runs a program and writes down each call of it that changes files below a directory, or says that what was changed is durable: ptrace(2), so that
// it does not matter how the program makes its calls. Linux 5.3 or later, x86-64 and arm64.
//
// A record of the log, little-endian:
//
//      0  length     u32   of the whole record
//      4  operation  u16   CTRACE_...
//      6  phase      u16   0: it begins, 1: it is over
//      8  result     i64   of the call, when it is over: what it returned, or -errno
//     16  file       u64   inode number of what it is about, 0: none
//     24  a, b, c    3 × u64
//     48  thread     u32
//     52  sizes      3 × u32  bytes of the first path, of the second, and of the data, which follow in this order
//     64  …
enum ctrace_operation {
    CTRACE_OPEN = 1,      // a flags, b 1: the call has made the file; path
    CTRACE_WRITE = 2,     // a offset, b 1: durable with the call (O_DSYNC, O_SYNC); data
    CTRACE_TRUNCATE = 3,  // a size
    CTRACE_ALLOCATE = 4,  // a mode (fallocate(2)), b offset, c bytes
    CTRACE_SYNC = 5,      // a 0: fsync, 1: fdatasync, 2: all of the filesystem
    CTRACE_LINK = 6,      // file: what gets the name; path
    CTRACE_UNLINK = 7,    // path, a 1: a directory
    CTRACE_RENAME = 8,    // path to path, a flags (renameat2(2))
    CTRACE_MKDIR = 9,     // path
    CTRACE_SAY = 10,      // data that went to standard output
    CTRACE_UNKNOWN = 11,  // a number of a call that changes files in a way that is not written down
    CTRACE_MAP = 12,      // a file is mapped, shared and to be written: what is written there is not noted; path
};

// Runs argv[0], with /dev/null for input and output, until it and all that it started have ended, and writes the log to a descriptor.
// - root: an absolute path without links; what lies elsewhere is not looked at.
// - kill_at: the program is killed before it makes the call that would be noted as that one, from 1 on; 0: it is not.
// - Returns: its status as of waitpid(2), or -1 and errno.
int ctrace_run(char *const argv[], const char *root, int log, long kill_at);
