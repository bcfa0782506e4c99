#define _GNU_SOURCE
#include "ctrace.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

// What is known of a thread between the beginning of a call and its end.
struct thread {
    pid_t id;
    int is_noted;
    uint16_t operation;
    uint64_t file, a, b, c;
    char path[PATH_MAX], other[PATH_MAX];
    struct thread *next;
};

static struct thread *threads;
static const char *root;
static size_t root_length;
static FILE *output;
// Calls that were noted, and the number of the one before which the program is killed; 0: it is not.
static long noted, last_call;

static struct thread *thread_of(pid_t id) {
    for (struct thread *thread = threads; thread; thread = thread->next)
        if (thread->id == id) return thread;
    struct thread *thread = calloc(1, sizeof *thread);
    if (!thread) abort();
    thread->id = id;
    thread->next = threads;
    threads = thread;
    return thread;
}

static void forget(pid_t id) {
    for (struct thread **place = &threads; *place; place = &(*place)->next)
        if ((*place)->id == id) {
            struct thread *gone = *place;
            *place = gone->next;
            free(gone);
            return;
        }
}

// MARK: The program's memory

static ssize_t fetch(pid_t id, uint64_t address, void *buffer, size_t count) {
    struct iovec local = {buffer, count}, remote = {(void *)address, count};
    return process_vm_readv(id, &local, 1, &remote, 1, 0);
}

// A path, which may end just before memory that is not there.
static int fetch_path(pid_t id, uint64_t address, char *path) {
    size_t done = 0;
    while (done < PATH_MAX) {
        size_t part = 64 - (address + done) % 64;
        if (part > PATH_MAX - done) part = PATH_MAX - done;
        if (fetch(id, address + done, path + done, part) != (ssize_t)part) return -1;
        if (memchr(path + done, 0, part)) return 0;
        done += part;
    }
    return -1;
}

static void read_link(pid_t id, const char *what, char *path) {
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/%s", (int)id, what);
    ssize_t length = readlink(name, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
}

// The absolute path that a call names, without links in its directory.
static int resolve(pid_t id, int directory, uint64_t address, char *path) {
    char given[PATH_MAX], whole[2 * PATH_MAX], what[32];
    if (fetch_path(id, address, given) != 0) return -1;
    if (given[0] == '/') {
        snprintf(whole, sizeof whole, "%s", given);
    } else {
        char start[PATH_MAX];
        if (directory == AT_FDCWD) snprintf(what, sizeof what, "cwd");
        else snprintf(what, sizeof what, "fd/%d", directory);
        read_link(id, what, start);
        snprintf(whole, sizeof whole, "%s/%s", start, given);
    }
    char *slash = strrchr(whole, '/');
    if (!slash) return -1;
    char name[NAME_MAX + 1];
    snprintf(name, sizeof name, "%s", slash + 1);
    *slash = 0;
    char real[PATH_MAX];
    if (!realpath(whole[0] ? whole : "/", real)) return -1;
    snprintf(path, PATH_MAX, "%s/%s", strcmp(real, "/") ? real : "", name);
    return 0;
}

static int is_inside(const char *path) {
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

// The inode of a descriptor of a file below the root, or of one there that has no name yet. 0: of none.
static uint64_t file_of(pid_t id, int descriptor) {
    char what[32], path[PATH_MAX], name[64];
    snprintf(what, sizeof what, "fd/%d", descriptor);
    read_link(id, what, path);
    if (!is_inside(path)) return 0;
    struct stat status;
    snprintf(name, sizeof name, "/proc/%d/fd/%d", (int)id, descriptor);
    if (stat(name, &status) != 0 || !(S_ISREG(status.st_mode) || S_ISDIR(status.st_mode))) return 0;
    return status.st_ino;
}

static uint64_t field(pid_t id, int descriptor, const char *field, int base) {
    char name[64], line[256];
    snprintf(name, sizeof name, "/proc/%d/fdinfo/%d", (int)id, descriptor);
    FILE *file = fopen(name, "re");
    if (!file) return 0;
    uint64_t value = 0;
    while (fgets(line, sizeof line, file))
        if (strncmp(line, field, strlen(field)) == 0) value = strtoull(line + strlen(field), NULL, base);
    fclose(file);
    return value;
}

// Where write(2) puts what it is given.
static uint64_t position(pid_t id, int descriptor, uint64_t flags) {
    struct stat status;
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/fd/%d", (int)id, descriptor);
    if (flags & O_APPEND && stat(name, &status) == 0) return (uint64_t)status.st_size;
    return field(id, descriptor, "pos:", 10);
}

// MARK: The log

static void put(struct thread *thread, int phase, int64_t result, const void *data, uint32_t count) {
    uint32_t sizes[3] = {(uint32_t)strlen(thread->path), (uint32_t)strlen(thread->other), count};
    uint32_t length = 64 + sizes[0] + sizes[1] + sizes[2], number = (uint32_t)thread->id;
    uint16_t kind[2] = {thread->operation, (uint16_t)phase};
    uint64_t words[4] = {thread->file, thread->a, thread->b, thread->c};
    fwrite(&length, 4, 1, output);
    fwrite(kind, 4, 1, output);
    fwrite(&result, 8, 1, output);
    fwrite(words, 32, 1, output);
    fwrite(&number, 4, 1, output);
    fwrite(sizes, 12, 1, output);
    fwrite(thread->path, 1, sizes[0], output);
    fwrite(thread->other, 1, sizes[1], output);
    if (count) fwrite(data, 1, count, output);
}

static void begin(struct thread *thread, uint16_t operation, const void *data, uint32_t count) {
    thread->operation = operation;
    // Behind the end, other processes of the run go on for a moment: nothing but what they say is noted.
    if (last_call && noted >= last_call && operation != CTRACE_SAY) return;
    if (operation != CTRACE_SAY && ++noted == last_call) {
        // The thread is stopped before the call, and does not come to it; its process ends with it.
        kill(thread->id, SIGKILL);
        return;
    }
    thread->is_noted = 1;
    put(thread, 0, 0, data, count);
}

// MARK: Calls

static void note_write(struct thread *thread, pid_t id, uint64_t offset, int is_durable, const struct iovec *parts, size_t count) {
    size_t total = 0, done = 0;
    for (size_t index = 0; index < count; index++) total += parts[index].iov_len;
    char *data = malloc(total + 1);
    if (!data) abort();
    for (size_t index = 0; index < count; index++) {
        size_t length = parts[index].iov_len;
        // Memory that is not there makes the call fail, or end before it.
        if (fetch(id, (uint64_t)parts[index].iov_base, data + done, length) != (ssize_t)length) memset(data + done, 0, length);
        done += length;
    }
    if (thread->file) {
        thread->a = offset;
        thread->b = is_durable;
        begin(thread, CTRACE_WRITE, data, (uint32_t)total);
    } else {
        begin(thread, CTRACE_SAY, data, (uint32_t)total);
    }
    free(data);
}

// flags: of pwritev2(2).
static void write_begins(struct thread *thread, pid_t id, const uint64_t *args, int is_vector, int has_offset, uint64_t flags) {
    int descriptor = (int)args[0];
    thread->file = file_of(id, descriptor);
    if (!thread->file && descriptor != 1) return;
    if (has_offset && args[3] == UINT64_MAX) has_offset = 0;
    uint64_t opened = thread->file ? field(id, descriptor, "flags:", 8) : 0;
    uint64_t offset = has_offset && !(opened & O_APPEND) ? args[3] : thread->file ? position(id, descriptor, opened) : 0;
    int durable = thread->file && ((flags & (RWF_DSYNC | RWF_SYNC)) != 0 || (opened & O_DSYNC) != 0);
    struct iovec single = {(void *)args[1], args[2]}, parts[1024];
    if (!is_vector) return note_write(thread, id, offset, durable, &single, 1);
    size_t count = args[2] < 1024 ? args[2] : 1024;
    if (fetch(id, args[1], parts, count * sizeof *parts) != (ssize_t)(count * sizeof *parts)) return;
    note_write(thread, id, offset, durable, parts, count);
}

static void map_begins(struct thread *thread, pid_t id, const uint64_t *args) {
    uint64_t kind = args[3] & MAP_TYPE;
    if (!(args[2] & PROT_WRITE) || (kind != MAP_SHARED && kind != MAP_SHARED_VALIDATE) || (args[3] & MAP_ANONYMOUS)) return;
    char what[32];
    if (!(thread->file = file_of(id, (int)args[4]))) return;
    snprintf(what, sizeof what, "fd/%d", (int)args[4]);
    read_link(id, what, thread->path);
    begin(thread, CTRACE_MAP, NULL, 0);
}

static void unknown_begins(struct thread *thread, pid_t id, uint64_t number, int descriptor) {
    if (!(thread->file = file_of(id, descriptor))) return;
    thread->a = number;
    begin(thread, CTRACE_UNKNOWN, NULL, 0);
}

static void open_begins(struct thread *thread, pid_t id, int directory, uint64_t path, uint64_t flags) {
    if (resolve(id, directory, path, thread->path) != 0 || !is_inside(thread->path)) return;
    if (!(flags & (O_CREAT | O_TRUNC)) && (flags & O_TMPFILE) != O_TMPFILE) return;
    struct stat status;
    thread->a = flags;
    thread->b = (flags & O_TMPFILE) == O_TMPFILE || lstat(thread->path, &status) != 0;
    begin(thread, CTRACE_OPEN, NULL, 0);
}

static void name_begins(struct thread *thread, pid_t id, uint16_t operation, int directory, uint64_t path) {
    if (resolve(id, directory, path, thread->path) == 0 && is_inside(thread->path)) begin(thread, operation, NULL, 0);
}

static void rename_begins(struct thread *thread, pid_t id, int directory, uint64_t path, int other_directory, uint64_t other, uint64_t flags) {
    if (resolve(id, directory, path, thread->path) != 0 || resolve(id, other_directory, other, thread->other) != 0) return;
    thread->a = flags;
    if (is_inside(thread->path) || is_inside(thread->other)) begin(thread, CTRACE_RENAME, NULL, 0);
}

static void link_begins(struct thread *thread, pid_t id, int directory, uint64_t path, int other_directory, uint64_t other, uint64_t flags) {
    char given[PATH_MAX], what[PATH_MAX + 32];
    struct stat status;
    if (resolve(id, other_directory, other, thread->path) != 0 || !is_inside(thread->path) || fetch_path(id, path, given) != 0) return;
    if (given[0] == 0 && flags & AT_EMPTY_PATH) snprintf(what, sizeof what, "/proc/%d/fd/%d", (int)id, directory);
    // In this process /proc/self is another directory.
    else if (strncmp(given, "/proc/self/", 11) == 0) snprintf(what, sizeof what, "/proc/%d/%s", (int)id, given + 11);
    else if (resolve(id, directory, path, what) != 0) return;
    if (stat(what, &status) != 0) return;
    thread->file = status.st_ino;
    begin(thread, CTRACE_LINK, NULL, 0);
}

static void call_begins(struct thread *thread, pid_t id, uint64_t number, const uint64_t *args) {
    thread->is_noted = 0;
    thread->file = thread->a = thread->b = thread->c = 0;
    thread->path[0] = thread->other[0] = 0;
    switch (number) {
    case SYS_write: return write_begins(thread, id, args, 0, 0, 0);
    case SYS_pwrite64: return write_begins(thread, id, args, 0, 1, 0);
    case SYS_writev: return write_begins(thread, id, args, 1, 0, 0);
    case SYS_pwritev: return write_begins(thread, id, args, 1, 1, 0);
    case SYS_pwritev2: return write_begins(thread, id, args, 1, 1, args[5]);
    case SYS_mmap: return map_begins(thread, id, args);
    case SYS_ftruncate:
        if (!(thread->file = file_of(id, (int)args[0]))) return;
        thread->a = args[1];
        return begin(thread, CTRACE_TRUNCATE, NULL, 0);
    case SYS_fallocate:
        if (!(thread->file = file_of(id, (int)args[0]))) return;
        thread->a = args[1];
        thread->b = args[2];
        thread->c = args[3];
        return begin(thread, CTRACE_ALLOCATE, NULL, 0);
    case SYS_fsync:
    case SYS_fdatasync:
        if (!(thread->file = file_of(id, (int)args[0]))) return;
        thread->a = number == SYS_fdatasync;
        return begin(thread, CTRACE_SYNC, NULL, 0);
    case SYS_syncfs:
        if (!(thread->file = file_of(id, (int)args[0]))) return;
        thread->a = 2;
        return begin(thread, CTRACE_SYNC, NULL, 0);
    case SYS_sync:
        thread->a = 2;
        return begin(thread, CTRACE_SYNC, NULL, 0);
    case SYS_openat: return open_begins(thread, id, (int)args[0], args[1], args[2]);
    case SYS_unlinkat:
        thread->a = (args[2] & AT_REMOVEDIR) != 0;
        return name_begins(thread, id, CTRACE_UNLINK, (int)args[0], args[1]);
    case SYS_renameat: return rename_begins(thread, id, (int)args[0], args[1], (int)args[2], args[3], 0);
    case SYS_renameat2: return rename_begins(thread, id, (int)args[0], args[1], (int)args[2], args[3], args[4]);
    case SYS_linkat: return link_begins(thread, id, (int)args[0], args[1], (int)args[2], args[3], args[4]);
    case SYS_mkdirat: return name_begins(thread, id, CTRACE_MKDIR, (int)args[0], args[1]);
#ifdef SYS_open
    case SYS_open: return open_begins(thread, id, AT_FDCWD, args[0], args[1]);
    case SYS_creat: return open_begins(thread, id, AT_FDCWD, args[0], O_CREAT | O_WRONLY | O_TRUNC);
    case SYS_unlink: return name_begins(thread, id, CTRACE_UNLINK, AT_FDCWD, args[0]);
    case SYS_rmdir:
        thread->a = 1;
        return name_begins(thread, id, CTRACE_UNLINK, AT_FDCWD, args[0]);
    case SYS_rename: return rename_begins(thread, id, AT_FDCWD, args[0], AT_FDCWD, args[1], 0);
    case SYS_link: return link_begins(thread, id, AT_FDCWD, args[0], AT_FDCWD, args[1], 0);
    case SYS_mkdir: return name_begins(thread, id, CTRACE_MKDIR, AT_FDCWD, args[0]);
#endif
    case SYS_truncate: {
        struct stat status;
        if (resolve(id, AT_FDCWD, args[0], thread->path) != 0 || !is_inside(thread->path) || stat(thread->path, &status) != 0) return;
        thread->file = status.st_ino;
        thread->a = args[1];
        return begin(thread, CTRACE_TRUNCATE, NULL, 0);
    }
    case SYS_copy_file_range: return unknown_begins(thread, id, number, (int)args[2]);
    case SYS_sendfile: return unknown_begins(thread, id, number, (int)args[0]);
    case SYS_splice: return unknown_begins(thread, id, number, (int)args[2]);
    // What is asked for by a ring in memory is not seen.
    case SYS_io_uring_setup:
        thread->a = number;
        return begin(thread, CTRACE_UNKNOWN, NULL, 0);
    }
}

static void call_ends(struct thread *thread, pid_t id, int64_t result) {
    if (!thread->is_noted) return;
    thread->is_noted = 0;
    struct stat status;
    char name[64];
    // Which file a name is of is known only now.
    if (thread->operation == CTRACE_OPEN && result >= 0) {
        snprintf(name, sizeof name, "/proc/%d/fd/%d", (int)id, (int)result);
        if (stat(name, &status) == 0) thread->file = status.st_ino;
    } else if (thread->operation == CTRACE_MKDIR && result == 0 && stat(thread->path, &status) == 0) {
        thread->file = status.st_ino;
    }
    put(thread, 1, result, NULL, 0);
}

static void stopped_in_call(pid_t id) {
    struct __ptrace_syscall_info info;
    if (ptrace(PTRACE_GET_SYSCALL_INFO, id, sizeof info, &info) <= 0) return;
    struct thread *thread = thread_of(id);
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
        uint64_t args[6];
        memcpy(args, info.entry.args, sizeof args);
        call_begins(thread, id, info.entry.nr, args);
    } else if (info.op == PTRACE_SYSCALL_INFO_EXIT) {
        call_ends(thread, id, info.exit.rval);
    }
}

static void start(char *const argv[]) {
    int nothing = open("/dev/null", O_RDWR);
    if (nothing >= 0) {
        dup2(nothing, 0);
        // What it says is noted, and goes nowhere else.
        dup2(nothing, 1);
        // A process that misses the one that was killed complains: nobody wants to hear of it.
        if (last_call) dup2(nothing, 2);
        if (nothing > 2) close(nothing);
    }
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
    execv(argv[0], argv);
    _exit(127);
}

int ctrace_run(char *const argv[], const char *directory, int log, long kill_at) {
    root = directory;
    root_length = strlen(directory);
    last_call = kill_at;
    noted = 0;
    output = fdopen(fcntl(log, F_DUPFD_CLOEXEC, 3), "w");
    if (!output) return -1;
    setvbuf(output, NULL, _IOFBF, 1 << 20);
    pid_t child = fork();
    if (child < 0) return -1;
    if (child == 0) start(argv);
    int status, ended = -1;
    if (waitpid(child, &status, 0) != child) return -1;
    long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_EXITKILL;
    if (ptrace(PTRACE_SETOPTIONS, child, NULL, options) != 0) return -1;
    ptrace(PTRACE_SYSCALL, child, NULL, NULL);
    for (;;) {
        pid_t id = waitpid(-1, &status, __WALL);
        if (id < 0 && errno == EINTR) continue;
        if (id < 0) break;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            forget(id);
            if (id == child) ended = status;
            continue;
        }
        int signal = WSTOPSIG(status);
        if (signal == (SIGTRAP | 0x80)) {
            stopped_in_call(id);
            signal = 0;
        } else if (signal == SIGTRAP || signal == SIGSTOP) {
            // A new thread, or exec.
            signal = 0;
        }
        ptrace(PTRACE_SYSCALL, id, NULL, (void *)(long)signal);
    }
    return fclose(output) == 0 ? ended : -1;
}
