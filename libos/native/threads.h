/* Virtual processors and threads as C and assembly see them alike.
 *
 * The base of gs is the number of the context times the size of its words in the own page.  So one instruction with a
 * constant address reaches the words of the context it runs on, and as only one instruction it cannot be torn apart by
 * a switch to another context; context 0, the only one of a program without threads, has base 0 and needs no setting up.
 * Every array below that is indexed by gs therefore has elements of that size.
 */
#ifndef THREADS_H
#define THREADS_H
#include <exo.h>

#define OWN_CRITICAL (EXO_OWN_PAGE + EXO_OWN_CONTEXTS + EXO_CONTEXT_CRITICAL)
#define OWN_ACTIVE (EXO_OWN_PAGE + EXO_OWN_CONTEXTS + EXO_CONTEXT_ACTIVE)
#define OWN_CPU_WANTED (EXO_OWN_PAGE + EXO_OWN_CONTEXTS + EXO_CONTEXT_CPU_WANTED)

#define PROCESSOR_THREAD 0
#define PROCESSOR_STACK_TOP 8
#define PROCESSOR_RESUME_AT 16

#define THREAD_RSP 0
#define THREAD_RBX 8
#define THREAD_RBP 16
#define THREAD_R12 24
#define THREAD_R13 32
#define THREAD_R14 40
#define THREAD_R15 48
#define THREAD_MXCSR 56
#define THREAD_FCW 60
#define THREAD_FS 64
#define THREAD_RESULT 72
#define THREAD_PREEMPTED 80
#define THREAD_EVERYTHING 96

#define VECTORS_SIZE 512
#define EVERYTHING_SIZE (VECTORS_SIZE + 2 * 8 + 15 * 8 + 5 * 8)

#ifdef __ASSEMBLER__
/* Begins a function that only the library knows. */
    .macro HIDDEN name
    .globl \name
    .hidden \name
    .type \name, @function
\name:
    .endm

/* What C preserves across a call. */
    .macro PUSH_PRESERVED
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    .endm

    .macro POP_PRESERVED
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    .endm
#else
#include <stddef.h>
#pragma GCC visibility push(hidden)

/* All of a preempted program's registers, as entry_please_release_cpu leaves them on the stack. */
struct everything {
    uint8_t vectors[VECTORS_SIZE];
    uint64_t unused, fs;
    uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rcx, rax, rdx, rsi, rdi;
    uint64_t rip, cs, rflags, rsp, ss;
};

/* Up to `result`: what a thread that has given up the processor itself needs of it again.  `everything` counts if it
 * was preempted.  The rest is told in threads.c. */
struct thread {
    uint64_t rsp, rbx, rbp, r12, r13, r14, r15;
    uint32_t mxcsr, fcw;
    uint64_t fs;
    int64_t result;
    uint64_t preempted;
    uint64_t critical;
    struct everything everything;
    struct thread *next;
    struct thread *sibling;
    long number;
    uint64_t ended, again;
    long outcome;
    uint64_t key;
    uint64_t event, value;
    uint64_t library_stack;
    char *stack;
};

struct processor {
    struct thread *thread;
    uint64_t stack_top;
    uint64_t resume_at;
};

/* What only the library in C knows of a processor: the library stack it has, one it has left that is to be spare again,
 * and flags.  There is none before threads begin. */
struct processor_state {
    uint64_t stack, left;
    uint32_t locked;      /* it has the pager's lock */
    uint32_t may_suspend; /* its thread may be suspended while it waits for the disk */
};

_Static_assert(sizeof(struct processor) == EXO_CONTEXT_SIZE, "gs counts in these steps");
_Static_assert(sizeof(struct processor_state) == EXO_CONTEXT_SIZE, "gs counts in these steps");
_Static_assert(sizeof(struct everything) == EVERYTHING_SIZE, "as the assembly has it");
_Static_assert(offsetof(struct thread, everything) == THREAD_EVERYTHING, "as the assembly has it");
_Static_assert(offsetof(struct thread, preempted) == THREAD_PREEMPTED, "as the assembly has it");
_Static_assert(offsetof(struct thread, result) == THREAD_RESULT, "as the assembly has it");
_Static_assert(offsetof(struct thread, fs) == THREAD_FS, "as the assembly has it");

extern struct processor processors[EXO_MAXIMUM_CONTEXTS];
extern struct processor_state *states;

static inline uint64_t gs_base(void) {
    uint64_t base;
    __asm__ volatile("rdgsbase %0" : "=r"(base));
    return base;
}

/* This processor's element; another processor's a moment later, unless the section is critical. */
static inline struct processor *here(void) {
    return (struct processor *)((char *)processors + gs_base());
}

static inline struct processor_state *state(void) {
    return (struct processor_state *)((char *)states + gs_base());
}

/* The thread itself: on whatever processor it is asked, it is that one's. */
static inline struct thread *this_thread(void) {
    struct thread *thread;
    __asm__ volatile("mov %%gs:(%1), %0" : "=r"(thread) : "r"(processors));
    return thread;
}

static inline void critical_up(void) {
    __asm__ volatile("incq %%gs:(%0)" : : "r"(OWN_CRITICAL) : "memory", "cc");
}

/* Gives whether the section is open now.  What was asked for meanwhile is for the caller to see to. */
static inline int critical_down(void) {
    int open;
    __asm__ volatile("decq %%gs:(%1)" : "=@ccz"(open) : "r"(OWN_CRITICAL) : "memory");
    return open;
}

static inline uint64_t own_word(uint64_t address) {
    uint64_t word;
    __asm__ volatile("mov %%gs:(%1), %0" : "=r"(word) : "r"(address) : "memory");
    return word;
}

static inline uint64_t exchange(volatile uint64_t *word, uint64_t value) {
    __asm__ volatile("xchg %0, (%1)" : "+r"(value) : "r"(word) : "memory");
    return value;
}

/* threads.S */
void entry_please_release_cpu(void), entry_resume_cpu(void), processor_begin(void), thread_begin(void);
int64_t thread_call(void *function, uint64_t a, uint64_t b, uint64_t c);
int64_t processor_trap(uint64_t number, uint64_t a, uint64_t b, uint64_t c);
_Noreturn void start_over(struct thread *(*function)(void));
void suspend(struct thread *thread, uint64_t stack_top, struct thread *(*function)(void));
int load_word(const volatile uint64_t *address, uint64_t *value); /* 0, or -1 if the page is not there */
extern const char load_word_at[];

/* processor.c */
extern int threading;
extern uint64_t pager_lock;
int is_locked(void);
uint32_t may_suspend(uint32_t may);
void lock_pager(void);
void unlock_pager(void);
int64_t block_unlocked(uint64_t event, uint64_t value, uint64_t deadline);
int64_t cpu_yield(uint64_t environment);
int64_t cpu_block(uint64_t event, uint64_t value, uint64_t deadline);
int64_t cpu_block_until(const struct exo_predicate_term *terms, uint64_t count, uint64_t deadline);

/* Between two steps of a long critical section: the processor may go, the lock and the section stay. */
static inline void give_way(void) {
    if (threading && own_word(OWN_CPU_WANTED))
        cpu_yield(0);
}

/* threads.c */
void begin_threading(void);
int64_t wait_in_library(uint64_t event, uint64_t value);
int64_t wait_in_program(uint64_t event, uint64_t value);
void wake_page(const uint8_t *state);
void honour(void);
int64_t handle_please_release_cpu(struct everything *at);
void handle_event(uint64_t event, uint64_t value, uint64_t status);
struct thread *first_thread(void);
int64_t park(const volatile uint64_t *word, uint64_t expected);
int64_t unpark(const volatile uint64_t *word, uint64_t most);
int others_ready(void);

#pragma GCC visibility pop
#endif
#endif
