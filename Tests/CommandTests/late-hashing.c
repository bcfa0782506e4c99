// Preloaded: threads that hash are late. Within EVP_MD_fetch, each waits at its first lock until the process is ending, and the process
// takes its time with that. Whoever tears OpenSSL down meanwhile takes the ground from under them.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Thread_local int is_slow;
static atomic_int is_ending, is_registered;
static void begin_ending(void) { is_ending = 1; }
static void linger(void) { usleep(300000); }
__attribute__((constructor)) static void last(void) { atexit(linger); }

EVP_MD *EVP_MD_fetch(OSSL_LIB_CTX *context, const char *name, const char *properties)
{
    EVP_MD *(*next)(OSSL_LIB_CTX *, const char *, const char *) = (EVP_MD *(*)(OSSL_LIB_CTX *, const char *, const char *))dlsym(RTLD_NEXT, "EVP_MD_fetch");
    char thread[16] = "";
    usleep(20000);
    pthread_getname_np(pthread_self(), thread, sizeof thread);
    is_slow = !strcmp(thread, "hash");
    EVP_MD *found = next(context, name, properties);
    if (!is_slow && !atomic_exchange(&is_registered, 1)) atexit(begin_ending);
    is_slow = 0;
    return found;
}

int pthread_rwlock_rdlock(pthread_rwlock_t *lock)
{
    static int (*next)(pthread_rwlock_t *);
    if (!next) next = (int (*)(pthread_rwlock_t *))dlsym(RTLD_NEXT, "pthread_rwlock_rdlock");
    if (is_slow) {
        for (int i = 0; i < 2000 && !is_ending; i++) usleep(1000);
        usleep(10000);
    }
    return next(lock);
}
