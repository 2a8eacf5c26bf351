/* Threads that share a spinlock are asked for the processor, or with --plain lose it: convoy [--plain] [OPTIONS].
 *
 * The program is its own library OS as far as the processor goes.  Each thread is a context of this environment with a
 * page of its own for up-calls, at whose beginning lies a record of the thread.  Each computes for a while, takes the
 * lock, computes for a while in the critical section, and lets go.
 *
 * With up-calls, `critical` in the own page is set as long as the thread has the lock: the kernel then asks for the
 * processor but does not interrupt, and unlock() gives the processor up if it is wanted.  Everywhere else the up-call
 * interrupts; it saves the general registers, because the threads use no others, and yields.  With --plain there is none
 * of that.  With --private each thread has a lock to itself.
 *
 * The counter is incremented in the section by a load at its beginning and a store at its end, so two threads in the
 * section at once would lose an increment.  All memory is touched before the threads begin, since a thread that faults
 * would need a pager that knows of threads.
 */
#include "exo.h"
#include "libos.h"
#include "support.h"

enum { THREADS_MAXIMUM = 24, OWN_STACK = 2 * PAGE_SIZE };

/* Instructions of a turn of the loop that waits for the lock. */
enum { TURN_OF_WAITING = 3, TURN_OF_COMPUTING = 2 };

/* At the beginning of a thread's up-call page; the assembly below knows the first four. */
struct record {
    uint64_t saved;    /* stack pointer of a thread that has yielded: there lies where to go on */
    uint64_t active;   /* address of its word `active` */
    uint64_t asked;    /* times it gave the processor up in the up-call */
    uint64_t offered;  /* times it did so after a critical section */
    volatile struct exo_own_context *own;
    volatile uint32_t *lock;
    uint64_t chance;
    uint64_t waits;    /* times the lock was not free */
    uint64_t turns;    /* of waiting */
    uint64_t longest;  /* of one wait, in cycles from beginning to end */
};

static struct thread {
    union {
        struct record record;
        unsigned char page[PAGE_SIZE];
    } upcalls;
    unsigned char stack[OWN_STACK];
} threads[THREADS_MAXIMUM] __attribute__((aligned(PAGE_SIZE)));

static struct {
    uint64_t threads, rounds, section, outside, seed;
    bool plain, private;
} options = {.threads = 4, .rounds = 100, .section = 200, .outside = 1000, .seed = 1};

/* A line of the cache to each would be right on a real machine; here it keeps the picture honest. */
static volatile uint32_t locks[THREADS_MAXIMUM][16];
static volatile uint64_t counters[THREADS_MAXIMUM][8];
static volatile uint64_t finished;
uint64_t main_saved;

/* Where the kernel enters, and where a thread yields by itself.  A thread that goes on has only its number (rdx) and
 * the top of its up-call page (rsp); context 0 has no such page, and only waits.  Between storing `saved` and yielding
 * no other up-call of the kind may come: in the up-call its bit in `active` forbids it, in give_up `critical`. */
void entry_please_release_cpu(void), entry_resume_cpu(void), give_up(struct record *record);
int64_t wait_for(const struct exo_predicate_term *term);

#define DIGITS(number) #number
#define TEXT(number) DIGITS(number)

__asm__(".text\n"
        "entry_please_release_cpu:\n"
        "    push %rax; push %rbx; push %rcx; push %rdx; push %rsi; push %rbp; push %r8; push %r9\n"
        "    push %r10; push %r11; push %r12; push %r13; push %r14; push %r15\n"
        "    mov %rsp, %rbx\n"
        "    and $-4096, %rbx\n"
        "    incq 16(%rbx)\n"
        "    push $asked\n"
        "    mov %rsp, (%rbx)\n"
        "    jmp yield\n"
        "asked:\n"
        "    mov %rsp, %rax\n"
        "    and $-4096, %rax\n"
        "    mov 8(%rax), %rax\n"
        "    pop %r15; pop %r14; pop %r13; pop %r12; pop %r11; pop %r10\n"
        "    pop %r9; pop %r8; pop %rbp; pop %rsi; pop %rdx; pop %rcx; pop %rbx\n"
        "    andq $~(1 << " TEXT(EXO_UPCALL_PLEASE_RELEASE_CPU) "), (%rax)\n"
        "    pop %rax; pop %rdi\n"
        "    iretq\n"

        "give_up:\n"
        "    push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "    incq 24(%rdi)\n"
        "    push $offered\n"
        "    mov %rsp, (%rdi)\n"
        "yield:\n"
        "    xor %edi, %edi\n"
        "    mov $" TEXT(EXO_CALL_YIELD) ", %eax\n"
        "    syscall\n"
        "    ud2\n"

        "wait_for:\n"
        "    push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "    push $offered\n"
        "    mov %rsp, main_saved\n"
        "    mov $1, %esi\n"
        "    mov $" TEXT(EXO_FOREVER) ", %rdx\n"
        "    mov $" TEXT(EXO_CALL_BLOCK_UNTIL) ", %eax\n"
        "    syscall\n"
        "    ret\n"

        "offered:\n"
        "    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "    ret\n"

        "entry_resume_cpu:\n"
        "    test %edx, %edx\n"
        "    jz 1f\n"
        "    mov -4096(%rsp), %rsp\n"
        "    ret\n"
        "1:  mov main_saved, %rsp\n"
        "    ret\n");

static void compute(uint64_t cycles) {
    uint64_t left = cycles / TURN_OF_COMPUTING + 1;
    __asm__ volatile("1: dec %0\n\tjnz 1b" : "+r"(left) : : "cc");
}

/* The virtual time: where another processor may let go at any moment, by the exposed page, which is right to within
 * the window by which processors run ahead of one another; on a single one, where to wait is to lose a slice, exactly. */
static uint64_t now(void) {
    return EXO_MACHINE->cpus > 1 ? EXO_MACHINE->clock : (uint64_t)exo_time();
}

static bool try(struct record *record) {
    if (!options.plain) {
        record->own->critical = 1;
    }
    return __atomic_exchange_n(record->lock, 1, __ATOMIC_ACQUIRE) == 0;
}

/* Ends the critical section of the thread: it may be interrupted again, and if it should have been, yields here. */
static void open_to_upcalls(struct record *record) {
    if (options.plain) {
        return;
    }
    record->own->critical = 0;
    while (record->own->cpu_wanted) {
        record->own->critical = 1;
        if (record->own->cpu_wanted) {
            give_up(record);
        }
        record->own->critical = 0;
    }
}

static uint64_t spin(const volatile uint32_t *lock) {
    uint64_t turns = 0;
    __asm__ volatile("1: inc %0\n\tcmpl $0, %1\n\tjne 1b" : "+r"(turns) : "m"(*lock) : "cc");
    return turns;
}

static void take(struct record *record) {
    if (try(record)) {
        return;
    }
    const uint64_t begin = now();
    uint64_t turns = 0;
    do {
        open_to_upcalls(record);
        turns += spin(record->lock);
    } while (!try(record));
    const uint64_t end = now(), least = turns * TURN_OF_WAITING;
    const uint64_t waited = end < begin + least ? least : end - begin;
    record->waits++;
    record->turns += turns;
    record->longest = waited > record->longest ? waited : record->longest;
}

static void let_go(struct record *record) {
    __atomic_store_n(record->lock, 0, __ATOMIC_RELEASE);
    open_to_upcalls(record);
}

static uint64_t next_length(struct record *record) {
    record->chance = record->chance * CHECKSUM_FACTOR + 1442695040888963407u;
    return options.outside / 2 + (record->chance >> 33) % (options.outside + 1);
}

static _Noreturn void work(uint64_t number) {
    struct record *record = &threads[number].upcalls.record;
    volatile uint64_t *counter = counters[options.private ? number : 0];
    for (uint64_t round = 0; round < options.rounds; round++) {
        compute(next_length(record));
        take(record);
        const uint64_t seen = *counter;
        compute(options.section);
        *counter = seen + 1;
        let_go(record);
    }
    __atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
    exo_end_context(EXO_ANY);
    __builtin_trap();
}

/* The kernel gives contexts the lowest free number, so thread n will be context n + 1. */
static void prepare_thread(uint64_t number) {
    struct thread *thread = &threads[number];
    memset(thread, 0, sizeof *thread); /* which touches it, as the next two lines do what the threads share */
    locks[number][0] = 0;
    counters[number][0] = 0;
    struct record *record = &thread->upcalls.record;
    record->own = &EXO_OWN->contexts[number + 1];
    record->active = (uint64_t)&record->own->active;
    record->lock = locks[options.private ? number : 0];
    record->chance = random_at(options.seed, number);
    exo_set_upcall_stack((uint64_t)thread, PAGE_SIZE, EXO_SELF, number + 1);
}

static void begin_thread(uint64_t number) {
    const uint64_t top = (uint64_t)threads[number].stack + OWN_STACK - sizeof(uint64_t);
    if (exo_create_context((uint64_t)work, top, number, EXO_BEGIN_READY, EXO_SELF) != (int64_t)number + 1) {
        stop(1, "convoy: there is no room for another thread", "");
    }
}

static void set_entries(bool on) {
    exo_set_upcall(EXO_UPCALL_PLEASE_RELEASE_CPU, on ? (uint64_t)entry_please_release_cpu : 0, EXO_SELF);
    exo_set_upcall(EXO_UPCALL_RESUME_CPU, on ? (uint64_t)entry_resume_cpu : 0, EXO_SELF);
}

static void print(const char *name, uint64_t value) {
    print_text(name);
    print_character(' ');
    print_number(value);
    print_line("");
}

static void read_options(int argc, char **argv) {
    const struct {
        const char *name;
        uint64_t *value, least, most;
    } known[] = {
        {"--threads", &options.threads, 1, THREADS_MAXIMUM}, {"--rounds", &options.rounds, 1, 1u << 30},
        {"--section", &options.section, 0, 1u << 30},        {"--outside", &options.outside, 0, 1u << 30},
        {"--seed", &options.seed, 0, UINT64_MAX},
    };
    for (int i = 1; i < argc; i++) {
        size_t place = 0;
        const size_t count = sizeof known / sizeof known[0];
        options.plain |= strcmp(argv[i], "--plain") == 0;
        options.private |= strcmp(argv[i], "--private") == 0;
        if (strcmp(argv[i], "--plain") == 0 || strcmp(argv[i], "--private") == 0) {
            continue;
        }
        while (place < count && strcmp(argv[i], known[place].name) != 0) {
            place++;
        }
        if (place == count) {
            stop(2, "convoy: the options are --plain, --private, --threads, --rounds, --section, --outside and --seed, not ",
                 argv[i]);
        }
        if (++i == argc) {
            stop(2, "convoy: there is no value after ", argv[i - 1]);
        }
        *known[place].value =
            number_argument("convoy: what follows an option is a number", argv[i], known[place].least, known[place].most);
    }
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    finished = main_saved = 0;
    for (uint64_t number = 0; number < options.threads; number++) {
        prepare_thread(number);
    }
    const struct exo_predicate_term all_finished = {1, (uint64_t)&finished, EXO_COMPARE_EQUAL, options.threads};
    exo_yield(0); /* A new slice, lest context 0 be asked before it waits. */
    const uint64_t begin = (uint64_t)exo_time();
    set_entries(!options.plain);
    for (uint64_t number = 0; number < options.threads; number++) {
        begin_thread(number);
    }
    wait_for(&all_finished);
    const uint64_t end = (uint64_t)exo_time();
    set_entries(false);
    uint64_t sections = 0, waits = 0, turns = 0, longest = 0, asked = 0, offered = 0;
    for (uint64_t number = 0; number < options.threads; number++) {
        const struct record *record = &threads[number].upcalls.record;
        sections += counters[number][0];
        waits += record->waits;
        turns += record->turns;
        longest = record->longest > longest ? record->longest : longest;
        asked += record->asked;
        offered += record->offered;
    }
    print("sections", sections);
    print("cycles", end - begin);
    print("waits", waits);
    print("spun", turns * TURN_OF_WAITING);
    print("longest", longest);
    print("asked", asked);
    print("offered", offered);
    return sections == options.threads * options.rounds ? 0 : 1;
}
