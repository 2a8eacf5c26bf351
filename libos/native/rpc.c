/* Other environments: a directed yield to one, and a call of its function by protected control transfer.
 *
 * In a call the kernel carries four words there and back in registers.  Somebody who is busy, or has not come to serve
 * yet, is given the rest of the slice and tried again until patience is at an end.
 */
#include "library.h"

#define PATIENCE 50000000

long os_self(void) {
    return (long)EXO_OWN->environment;
}

void os_yield_to(long environment) {
    cpu_yield((uint64_t)environment);
}

long os_rpc_call(long server, uint64_t operation, uint64_t a, uint64_t b, uint64_t c, uint64_t *result) {
    uint64_t deadline = EXO_MACHINE->clock + PATIENCE;
    for (;;) {
        uint64_t words[4] = {operation, a, b, c};
        int64_t refusal = exo_call((uint64_t)server, deadline, words);
        if (!refusal) {
            if (result)
                *result = words[0];
            return 0;
        }
        if (refusal != EXO_BUSY && refusal != EXO_NOT_SERVING)
            return refusal == EXO_TIMED_OUT ? OS_RPC_LATE : OS_RPC_NOBODY;
        cpu_yield((uint64_t)server);
    }
}
