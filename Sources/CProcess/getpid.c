#include "clinux.h"
#include <sys/types.h>

// LMDB tells processes apart by their ids: its table of readers, and locks on bytes with these numbers. Processes in different
// PID namespaces (containers) have the same ones. It asks when an environment is made and when it is closed, and is told a
// number then that no other process of the store has (LockFile).
pid_t getpid(void)
{
    pid_t identity = clinux_get_identity();
    return identity != 0 ? identity : clinux_process_id();
}
