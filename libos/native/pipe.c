/* os_pipe: bytes from one environment to another through a ring in a shared page, without a copy in the kernel.
 *
 * The writer counts the bytes it has put in, the reader those it has taken out; each writes only its own count.  Who
 * must wait gives the rest of its slice to an environment that has the other end, which is all it takes when two take
 * turns; if that was no use it waits for a predicate: the other's count has changed, or the other has closed its end or
 * has died, which the exposed environment table tells.
 *
 * The environment that made a pipe enters itself and each child it forks as a member, with the ends the child begins
 * with; a member that closes an end strikes it from its own word.  A member that has died has no end any more, and the
 * maker gives its place away.  Nothing a member may write into the page makes another one touch more than the ring.
 * (Engler, Kaashoek and O'Toole, SOSP 1995, section 7.1, have such a pipe in their library OS.)
 */
#include "bytes.h"
#include "library.h"

#define MEMBERS 4
#define CAPACITY (EXO_PAGE_SIZE - 64)
#define BOTH (OS_READ_END | OS_WRITE_END)
#define MAXIMUM_ENVIRONMENTS 4096
#define ALIVE 2ull

/* A member is an environment's number and, above it, the ends it has open. */
struct ring {
    uint64_t put, taken;
    uint64_t members[MEMBERS];
    uint64_t unused[2];
    char bytes[CAPACITY];
};

_Static_assert(sizeof(struct ring) == EXO_PAGE_SIZE, "a ring fills a page");

static uint8_t is_pipe[SHARED_MAXIMUM];

static volatile struct ring *ring_at(uint32_t pipe) {
    return (volatile struct ring *)shared_address(pipe);
}

/* Our own entry in the list of members; a null pointer if there is none or the pipe is none. */
static volatile uint64_t *own_member(long pipe) {
    if (pipe < 0 || pipe >= SHARED_MAXIMUM || !is_pipe[pipe])
        return NULL;
    volatile struct ring *ring = ring_at((uint32_t)pipe);
    for (int i = 0; i < MEMBERS; i++)
        if ((uint32_t)ring->members[i] == EXO_OWN->environment)
            return &ring->members[i];
    return NULL;
}

/* The ring of a pipe if `end` of it is open here. */
static volatile struct ring *ring_of(long pipe, uint64_t end) {
    volatile uint64_t *member = own_member(pipe);
    return member && *member >> 32 & end ? ring_at((uint32_t)pipe) : NULL;
}

/* The first word of an environment's row: its number and its state. */
static const volatile uint64_t *row_of(uint64_t environment) {
    uint64_t place = environment % MAXIMUM_ENVIRONMENTS;
    return (const volatile uint64_t *)(EXO_ENVIRONMENT_TABLE + place * sizeof(struct exo_environment_row));
}

static int lives(uint64_t environment) {
    return *row_of(environment) == (ALIVE << 32 | environment);
}

/* Whether anybody has `end` open. */
static int is_open(volatile struct ring *ring, uint64_t end) {
    for (int i = 0; i < MEMBERS; i++) {
        uint64_t member = ring->members[i];
        if (member >> 32 & end && lives((uint32_t)member))
            return 1;
    }
    return 0;
}

static uint32_t add_term(struct exo_predicate_term *terms, uint32_t count, const volatile uint64_t *word, uint64_t seen) {
    terms[count] = (struct exo_predicate_term){count, (uint64_t)word, EXO_COMPARE_NOT_EQUAL, seen};
    return count + 1;
}

/* Lets whoever has `end` open do something, once by way of a yield and then by waiting for it, until `word` is no longer
 * `seen` or something else has changed; gives 0 if nobody has it open. */
static int wait_for_other(volatile struct ring *ring, volatile uint64_t *word, uint64_t seen, uint64_t end, int *yielded) {
    struct exo_predicate_term terms[1 + 2 * MEMBERS];
    uint32_t count = add_term(terms, 0, word, seen);
    uint64_t partner = 0;
    int open = 0;
    for (int i = 0; i < MEMBERS; i++) {
        uint64_t member = ring->members[i], other = (uint32_t)member;
        if (!(member >> 32 & end) || !lives(other))
            continue;
        open = 1;
        if (other == EXO_OWN->environment)
            continue;
        partner = other;
        count = add_term(terms, count, &ring->members[i], member);
        count = add_term(terms, count, row_of(other), ALIVE << 32 | other);
    }
    if (!open)
        return 0;
    if (partner && !*yielded)
        cpu_yield(partner);
    else
        cpu_block_until(terms, count, EXO_FOREVER);
    *yielded = !*yielded;
    return 1;
}

long os_pipe(void) {
    int64_t pipe = share_page();
    if (pipe < 0)
        return -1;
    ring_at((uint32_t)pipe)->members[0] = EXO_OWN->environment | (uint64_t)BOTH << 32;
    is_pipe[pipe] = 1;
    return pipe;
}

long os_pipe_read(long pipe, void *buffer, size_t size) {
    volatile struct ring *ring = ring_of(pipe, OS_READ_END);
    if (!ring)
        return -1;
    uint64_t taken = ring->taken;
    for (int yielded = 0; size && ring->put == taken;)
        if (!wait_for_other(ring, &ring->put, taken, OS_WRITE_END, &yielded) && ring->put == taken)
            return 0;
    size_t here = ring->put - taken, done = 0;
    if (here > CAPACITY)
        return -1;
    for (size = least(size, here); done < size;) {
        uint64_t at = (taken + done) % CAPACITY;
        size_t part = least(size - done, CAPACITY - at);
        copy((char *)buffer + done, (const char *)ring->bytes + at, part);
        done += part;
    }
    ring->taken = taken + size;
    return (long)size;
}

long os_pipe_write(long pipe, const void *bytes, size_t size) {
    volatile struct ring *ring = ring_of(pipe, OS_WRITE_END);
    if (!ring || !is_open(ring, OS_READ_END))
        return -1;
    uint64_t put = ring->put;
    int yielded = 0;
    for (size_t done = 0; done < size;) {
        uint64_t taken = ring->taken, full = put - taken, at = put % CAPACITY;
        if (full > CAPACITY)
            return -1;
        size_t part = least(least(size - done, CAPACITY - full), CAPACITY - at);
        if (part) {
            copy((char *)ring->bytes + at, (const char *)bytes + done, part);
            ring->put = put += part;
            done += part;
            yielded = 0;
        } else if (!wait_for_other(ring, &ring->taken, taken, OS_READ_END, &yielded)) {
            return -1;
        }
    }
    return (long)size;
}

int os_pipe_close(long pipe, int ends) {
    volatile uint64_t *member = own_member(pipe);
    if (!member || !ends || ends & ~BOTH)
        return -1;
    *member &= ~((uint64_t)ends << 32);
    if (!(*member >> 32)) {
        *member = 0;
        is_pipe[pipe] = 0;
        drop_shared_page((uint32_t)pipe);
    }
    return 0;
}

/* Enters a child as a member of the pipes that were made here; -1 if there are too many already. */
int give_pipes(uint64_t child) {
    for (uint32_t pipe = 0; pipe < SHARED_MAXIMUM; pipe++) {
        volatile struct ring *ring = ring_at(pipe);
        if (!is_pipe[pipe] || (uint32_t)ring->members[0] != EXO_OWN->environment)
            continue;
        int place = 1;
        while (place < MEMBERS && ring->members[place] && lives((uint32_t)ring->members[place]))
            place++;
        if (place == MEMBERS)
            return -1;
        ring->members[place] = child | (ring->members[0] & (uint64_t)BOTH << 32);
    }
    return 0;
}
