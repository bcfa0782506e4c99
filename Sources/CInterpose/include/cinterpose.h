#ifndef DEDUPDISK_CINTERPOSE_H
#define DEDUPDISK_CINTERPOSE_H
// What the program has in place of libc's functions, for LMDB's library, which finds a program's own before libc's: getpid(2)
// and writev(2). It is the program that links this, as it concerns the whole process; the engine works without.
#include <sys/types.h>
#endif
