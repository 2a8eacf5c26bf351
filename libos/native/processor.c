/* A virtual processor: a context of the environment, on which one thread at a time runs.
 *
 * Once threads have begun the library handles resume_cpu, so the kernel keeps no register over a yield or a block; then
 * these functions stand for the down-calls.  Before that they are the down-calls.
 *
 * With threads one lock guards the pager and what it knows.  Whoever has it is in a critical section; whoever waits for
 * it is not.
 */
#include "library.h"

#define PATIENCE 64

struct processor processors[EXO_MAXIMUM_CONTEXTS];
uint64_t pager_lock;
struct processor_state *states;
int threading;

/* Whether this processor has the lock; without threads, whether it is in the section that stands for it. */
int is_locked(void) {
    return threading ? state()->locked != 0 : own_word(OWN_CRITICAL) != 0;
}

/* Whether the thread on this processor may be suspended from now on; gives what held before. */
uint32_t may_suspend(uint32_t may) {
    uint32_t before = state()->may_suspend;
    state()->may_suspend = may;
    return before;
}

int64_t cpu_yield(uint64_t environment) {
    if (!threading)
        return exo_yield(environment);
    critical_up();
    int64_t result = processor_trap(EXO_CALL_YIELD, environment, 0, 0);
    critical_down();
    return result;
}

int64_t cpu_block(uint64_t event, uint64_t value, uint64_t deadline) {
    if (!threading)
        return exo_block(event, value, deadline);
    critical_up();
    int64_t result = processor_trap(EXO_CALL_BLOCK, event, value, deadline);
    critical_down();
    return result;
}

int64_t cpu_block_until(const struct exo_predicate_term *terms, uint64_t count, uint64_t deadline) {
    if (!threading)
        return exo_block_until((uint64_t)terms, count, deadline);
    critical_up();
    int64_t result = processor_trap(EXO_CALL_BLOCK_UNTIL, (uint64_t)terms, count, deadline);
    critical_down();
    return result;
}

/* In a critical section, which is open while this waits. */
void lock_pager(void) {
    for (uint32_t turns = 1; exchange(&pager_lock, 1); turns++) {
        critical_down();
        if (turns % PATIENCE == 0 || own_word(OWN_CPU_WANTED))
            cpu_yield(0);
        else
            __asm__ volatile("pause");
        critical_up();
    }
    state()->locked = 1;
}

void unlock_pager(void) {
    state()->locked = 0;
    __atomic_store_n(&pager_lock, 0, __ATOMIC_RELEASE);
}

/* Blocks with the lock open; for waits at which the state of no page is in hand. */
int64_t block_unlocked(uint64_t event, uint64_t value, uint64_t deadline) {
    if (!threading)
        return exo_block(event, value, deadline);
    unlock_pager();
    int64_t result = cpu_block(event, value, deadline);
    lock_pager();
    return result;
}
