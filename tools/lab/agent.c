/* Runs shell commands in a guest from dom0 over xenstore: the guests need no network, and no console has to be parsed.
 *
 *   in the guest:  agent serve
 *   in dom0:       guest-exec [-t SECONDS] DOMAIN COMMAND...      (the same program under that name)
 *
 * A request is a directory below /local/domain/ID/data/agent; libxl gives "data" to the guest.
 *
 *   REQUEST/command     dom0 writes it, which starts the command
 *   REQUEST/output/0..  standard output and error, in chunks that the quota for guests allows
 *   REQUEST/status      "STATUS CHUNKS", written last
 *
 * dom0 removes the directory when it has read the answer. Every request runs in a process of its own: a command that
 * hangs on a dead disk does not keep the next one from running.
 *
 * Link libxenstore dynamically: xs_watch fails with EINVAL in a static program.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <xenstore.h>

enum {
    chunk_size = 1900,   /* xenstored allows a guest 2048 bytes a node, header and path apart */
    chunk_limit = 400,   /* and 1000 nodes in all */
    command_size = 3500, /* dom0 has no quota, but a xenstore message has 4096 bytes */
    path_size = 160,
    timed_out = 124,     /* as timeout(1) */
    lab_failed = 125,
};

static void die(const char *what)
{
    perror(what);
    exit(lab_failed);
}

static struct xs_handle *open_store(void)
{
    struct xs_handle *store = xs_open(0);
    if (!store) die("xenstore");
    return store;
}

static void write_node(struct xs_handle *store, const char *path, const void *value, unsigned length)
{
    if (!xs_write(store, XBT_NULL, path, value, length)) die(path);
}

/* ---- in the guest ---- */

static int run_shell(const char *command, int output)
{
    int status;
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) {
        int input = open("/dev/null", O_RDONLY);
        dup2(input, 0);
        dup2(output, 1);
        dup2(output, 2);
        setsid();
        signal(SIGCHLD, SIG_DFL);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    if (waitpid(child, &status, 0) < 0) die("waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Runs one request. Called in a process of its own, hence with a connection of its own. */
static void answer(const char *request)
{
    char path[path_size], chunk[chunk_size], reply[32], name[] = "/tmp/agent.XXXXXX";
    unsigned length;
    int count = 0;
    ssize_t size;

    signal(SIGCHLD, SIG_DFL);
    struct xs_handle *store = open_store();
    snprintf(path, sizeof path, "%s/command", request);
    char *command = xs_read(store, XBT_NULL, path, &length);
    if (!command) return;

    int output = mkstemp(name);
    if (output < 0) die(name);
    unlink(name);
    int status = run_shell(command, output);
    lseek(output, 0, SEEK_SET);
    while (count < chunk_limit && (size = read(output, chunk, sizeof chunk)) > 0) {
        snprintf(path, sizeof path, "%s/output/%d", request, count++);
        write_node(store, path, chunk, (unsigned)size);
    }
    snprintf(path, sizeof path, "%s/status", request);
    length = (unsigned)snprintf(reply, sizeof reply, "%d %d", status, count);
    write_node(store, path, reply, length);
}

static int serve(void)
{
    static const char root[] = "data/agent", suffix[] = "/command";
    struct xs_handle *store = open_store();
    unsigned count;

    signal(SIGCHLD, SIG_IGN); /* nobody waits for the children */
    if (!xs_watch(store, root, "request")) die("watch");
    for (;;) {
        char **event = xs_read_watch(store, &count);
        if (!event) die("read_watch");
        char *path = event[XS_WATCH_PATH];
        size_t length = strlen(path);
        /* A watch begins with an event, and begins anew in a guest that was saved and restored: with another id, and
         * without the nodes of the one before. */
        if (!strcmp(path, root)) {
            unsigned ignored;
            char *ready = xs_read(store, XBT_NULL, "data/agent/ready", &ignored);
            if (!ready) write_node(store, "data/agent/ready", "1", 1);
            free(ready);
        }
        if (length > sizeof suffix && !strcmp(path + length - (sizeof suffix - 1), suffix)) {
            path[length - (sizeof suffix - 1)] = 0;
            if (fork() == 0) {
                answer(path);
                _exit(0);
            }
        }
        free(event);
    }
}

/* ---- in dom0 ---- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The domain's id for a name or an id; -1 when there is none. */
static int find_domain(struct xs_handle *store, const char *name)
{
    unsigned count = 0, length;
    int found = -1;
    char path[path_size];
    char **ids = xs_directory(store, XBT_NULL, "/local/domain", &count);
    for (unsigned i = 0; ids && i < count && found < 0; i++) {
        snprintf(path, sizeof path, "/local/domain/%s/name", ids[i]);
        char *value = xs_read(store, XBT_NULL, path, &length);
        if (value && (!strcmp(value, name) || !strcmp(ids[i], name))) found = atoi(ids[i]);
        free(value);
    }
    free(ids);
    return found;
}

/* The value of a node once it exists. Ends the program at the deadline, and when the guest goes away. */
static char *await_node(struct xs_handle *store, int domain, const char *path, double deadline)
{
    char alive[path_size];
    unsigned length;
    snprintf(alive, sizeof alive, "/local/domain/%d/domid", domain);
    if (!xs_watch(store, path, "node")) die("watch");
    for (;;) {
        char *value = xs_read(store, XBT_NULL, path, &length);
        if (value) {
            xs_unwatch(store, path, "node");
            return value;
        }
        value = xs_read(store, XBT_NULL, alive, &length);
        if (!value) {
            fprintf(stderr, "guest-exec: domain %d is gone\n", domain);
            exit(lab_failed);
        }
        free(value);
        double left = deadline - now();
        if (left <= 0) {
            fprintf(stderr, "guest-exec: domain %d did not answer in time\n", domain);
            exit(timed_out);
        }
        /* Half a second at most: the end of a domain raises no event for a node that it never had. */
        struct pollfd ready = { .fd = xs_fileno(store), .events = POLLIN };
        if (poll(&ready, 1, left < 0.5 ? (int)(left * 1000) + 1 : 500) > 0) free(xs_check_watch(store));
    }
}

static int execute(int domain, double limit, const char *command)
{
    char request[path_size / 2], path[path_size];
    unsigned length;
    int status = lab_failed, count = 0;
    double deadline = now() + limit;
    struct xs_handle *store = open_store();

    snprintf(path, sizeof path, "/local/domain/%d/data/agent/ready", domain);
    free(await_node(store, domain, path, deadline));

    snprintf(request, sizeof request, "/local/domain/%d/data/agent/%d", domain, getpid());
    snprintf(path, sizeof path, "%s/command", request);
    write_node(store, path, command, (unsigned)strlen(command));

    snprintf(path, sizeof path, "%s/status", request);
    char *reply = await_node(store, domain, path, deadline);
    sscanf(reply, "%d %d", &status, &count);
    free(reply);
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/output/%d", request, i);
        char *chunk = xs_read(store, XBT_NULL, path, &length);
        if (!chunk) die(path);
        fwrite(chunk, 1, length, stdout);
        free(chunk);
    }
    if (count == chunk_limit) fprintf(stderr, "guest-exec: the output was cut\n");
    xs_rm(store, XBT_NULL, request);
    return status;
}

static int usage(void)
{
    fprintf(stderr, "usage: guest-exec [-t SECONDS] DOMAIN COMMAND...\n");
    return lab_failed;
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "serve")) return serve();

    char command[command_size] = "";
    double limit = 120;
    int option;
    while ((option = getopt(argc, argv, "+t:")) != -1) {
        if (option != 't') return usage();
        limit = atof(optarg);
    }
    if (argc - optind < 2) return usage();
    struct xs_handle *store = open_store();
    int domain = find_domain(store, argv[optind]);
    xs_close(store);
    if (domain < 0) {
        fprintf(stderr, "guest-exec: no domain %s\n", argv[optind]);
        return lab_failed;
    }
    for (int i = optind + 1; i < argc; i++) {
        size_t used = strlen(command);
        int added = snprintf(command + used, sizeof command - used, "%s%s", used ? " " : "", argv[i]);
        if (added < 0 || (size_t)added >= sizeof command - used) {
            fprintf(stderr, "guest-exec: the command is too long (%d bytes at most)\n", command_size - 1);
            return lab_failed;
        }
    }
    return execute(domain, limit, command);
}
