#ifndef DEDUPDISK_CPROCESS_H
#define DEDUPDISK_CPROCESS_H
// How every program of this package begins, and what it has in place of libc's functions. A target that depends on this one has
// both, without calling anything; as they concern the whole process, it is programs and tests that do. The engine works without.
//
// LMDB's library finds a program's own getpid(2) and writev(2) before libc's: getpid.c and writev.c say what for.
//
// Before any other code of the process runs, a library's constructors included (ld.so, DT_PREINIT_ARRAY), descriptors 0 to 2
// are made to exist. A program may be started with some of them closed; the next file that it opened would then get such a number,
// and be written into by whoever has something to say. They are descriptors that nothing can be read from nor written to, also
// when they are opened anew through /dev/stdout: what is said is lost, and who cares for it is told EBADF.

// The arguments as execve(2) gave them: their bytes, also where there is no /proc. `cprocess_argument(0)` is the program's name.
int cprocess_argument_count(void);
// NULL when there are not so many.
const char *cprocess_argument(int index);
#endif
