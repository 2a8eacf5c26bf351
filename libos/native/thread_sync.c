/* Locks, conditions and barriers: words in the program's memory, and threads that wait for them in the library.
 *
 * A mutex is 0 when free, 1 when owned, 2 when somebody may be waiting too.  Nobody is given it: who wakes up tries
 * again.  Only `park` compares the word and falls asleep in one step, so nothing here needs a lock or must not fault.
 * (Drepper, Futexes are tricky, 2004, has this mutex.)
 */
#include "library.h"

#define EVERYBODY UINT64_MAX
#define TURNS 64

enum { ARRIVED, ROUND };

static uint64_t load(const volatile uint64_t *word) {
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

/* The word may have been paged out while it could not be brought in: bring it in here. */
static void wait_while(volatile uint64_t *word, uint64_t value) {
    while (load(word) == value && park(word, value) < 0)
        ;
}

static uint64_t compare_exchange(volatile uint64_t *word, uint64_t expected, uint64_t wanted) {
    __asm__ volatile("lock cmpxchg %2, (%1)" : "+a"(expected) : "r"(word), "r"(wanted) : "memory", "cc");
    return expected;
}

static void lock_slowly(volatile uint64_t *word) {
    while (exchange(word, 2))
        wait_while(word, 2);
}

void os_mutex_lock(struct os_mutex *mutex) {
    if (compare_exchange(&mutex->words[0], 0, 1))
        lock_slowly(&mutex->words[0]);
}

void os_mutex_unlock(struct os_mutex *mutex) {
    if (exchange(&mutex->words[0], 0) == 2)
        unpark(&mutex->words[0], 1);
}

void os_condition_wait(struct os_condition *condition, struct os_mutex *mutex) {
    uint64_t seen = load(&condition->words[0]);
    os_mutex_unlock(mutex);
    wait_while(&condition->words[0], seen);
    os_mutex_lock(mutex);
}

void os_condition_signal(struct os_condition *condition) {
    __atomic_fetch_add(&condition->words[0], 1, __ATOMIC_SEQ_CST);
    unpark(&condition->words[0], 1);
}

void os_condition_broadcast(struct os_condition *condition) {
    __atomic_fetch_add(&condition->words[0], 1, __ATOMIC_SEQ_CST);
    unpark(&condition->words[0], EVERYBODY);
}

int os_barrier_wait(struct os_barrier *barrier, uint64_t count) {
    uint64_t round = load(&barrier->words[ROUND]);
    if (__atomic_add_fetch(&barrier->words[ARRIVED], 1, __ATOMIC_SEQ_CST) == count) {
        barrier->words[ARRIVED] = 0;
        __atomic_fetch_add(&barrier->words[ROUND], 1, __ATOMIC_SEQ_CST);
        unpark(&barrier->words[ROUND], EVERYBODY);
        return 1;
    }
    while (load(&barrier->words[ROUND]) == round)
        wait_while(&barrier->words[ROUND], round);
    return 0;
}

void os_critical_enter(void) {
    begin_threading();
    critical_up();
}

static void release_frames(void) {
    enter();
    leave();
}

void os_critical_leave(void) {
    if (!critical_down())
        return;
    if (EXO_OWN->frames_wanted)
        on_library_stack((void *)release_frames, 0, 0, 0);
    if (own_word(OWN_CPU_WANTED))
        honour();
}

void os_spin_lock(struct os_spin *lock) {
    for (;;) {
        os_critical_enter();
        if (!exchange(&lock->words[0], 1))
            return;
        os_critical_leave();
        for (uint32_t turns = 0; load(&lock->words[0]) && turns < TURNS; turns++)
            __asm__ volatile("pause");
        if (!load(&lock->words[0]))
            continue;
        if (others_ready())
            os_thread_yield();
        else
            cpu_yield(0);
    }
}

void os_spin_unlock(struct os_spin *lock) {
    exchange(&lock->words[0], 0);
    os_critical_leave();
}
