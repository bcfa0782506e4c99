#define _GNU_SOURCE
#include "clinux.h"
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

// Threads between begin and end; and what SIGTSTP asked for: 0 nothing, 1 a stop, 2 somebody is at it, 3 the same, and SIGCONT has come meanwhile.
static atomic_int holders, wanted;
// Nested calls of this thread.
static _Thread_local int depth;

// Stops the process as SIGTSTP does by itself: not where nobody could continue it (setpgid(2), orphaned process groups).
static void stop(void)
{
    int asked = 1;
    if (!atomic_compare_exchange_strong(&wanted, &asked, 2)) return;
    struct sigaction standard = { .sa_handler = SIG_DFL }, none = { .sa_handler = SIG_IGN }, ours;
    sigset_t signals, before;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTSTP);
    pthread_sigmask(SIG_BLOCK, &signals, &before);
    sigaction(SIGTSTP, &standard, &ours);
    // It waits here, and whoever sends SIGCONT from now on takes it away (signal(7)); who has sent that before is seen in `wanted`.
    raise(SIGTSTP);
    if (atomic_load(&wanted) == 3) sigaction(SIGTSTP, &none, NULL);
    pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
    // Here it goes on.
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    sigaction(SIGTSTP, &ours, NULL);
    atomic_store(&wanted, 0);
}

int clinux_begin_unstoppable(void)
{
    if (depth++ > 0) return 1;
    atomic_fetch_add(&holders, 1);
    // Either this sees the request, or its handler sees this holder.
    if (atomic_load(&wanted) == 0) return 1;
    depth--;
    if (atomic_fetch_sub(&holders, 1) == 1) stop();
    return 0;
}

void clinux_await_stop(void)
{
    while (atomic_load(&wanted) != 0) usleep(1000);
}

void clinux_end_unstoppable(void)
{
    if (--depth > 0) return;
    if (atomic_fetch_sub(&holders, 1) == 1 && atomic_load(&wanted) == 1) stop();
}

static void handle(int number)
{
    (void)number;
    int none = 0;
    atomic_compare_exchange_strong(&wanted, &none, 1);
    if (atomic_load(&holders) == 0) stop();
}

// A stop that has not come yet will not: nobody would continue it a second time.
static void handle_continue(int number)
{
    (void)number;
    int asked = 1, busy = 2;
    if (!atomic_compare_exchange_strong(&wanted, &asked, 0)) atomic_compare_exchange_strong(&wanted, &busy, 3);
}

void clinux_defer_stops(void)
{
    struct sigaction before;
    if (sigaction(SIGTSTP, NULL, &before) != 0 || before.sa_handler == SIG_IGN) return;
    struct sigaction action = { .sa_handler = handle, .sa_flags = SA_RESTART };
    sigaction(SIGTSTP, &action, NULL);
    struct sigaction going_on = { .sa_handler = handle_continue, .sa_flags = SA_RESTART };
    sigaction(SIGCONT, &going_on, NULL);
}
