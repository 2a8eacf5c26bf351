/* Computes in few registers or many, and saves few or many of them: registers WORK SAVE [TURNS] [SEED].
 *
 * WORK is how much of the processor the computation uses: 3 registers, 16, or 16 and the vector registers.  SAVE is what
 * its pair of up-calls saves and restores: 3, 16 or vector; with `kernel` there is no such pair, and the kernel saves
 * everything.  With `polling` (for WORK 3) the computation is one critical section, looks itself whether the processor is
 * wanted, and saves its three at that place.  Who saves less than it uses prints another checksum.
 *
 * The interrupted rip, flags and rsp need not be saved: they are in the up-call's frame, which stays where it is, at the
 * top of the library's up-call stack, because nothing is pushed there while the program is away.  The computation uses no
 * memory and calls nothing, so no up-call of the library comes in between; its caller's registers are on its stack.
 */
#include "exo.h"
#include "libos.h"
#include "support.h"

uint64_t kept[56];
uint64_t work_3(uint64_t seed, uint64_t turns), work_3_polling(uint64_t seed, uint64_t turns);
uint64_t work_16(uint64_t seed, uint64_t turns), work_vector(uint64_t seed, uint64_t turns);
void release_3(void), release_16(void), release_vector(void), resume_3(void), resume_16(void), resume_vector(void);
void resume_polling(void);

#define DIGITS(number) #number
#define TEXT(number) DIGITS(number)
#define OWN_CONTEXT TEXT(EXO_OWN_PAGE) " + " TEXT(EXO_OWN_CONTEXTS) " + "
#define CRITICAL OWN_CONTEXT TEXT(EXO_CONTEXT_CRITICAL)
#define ACTIVE OWN_CONTEXT TEXT(EXO_CONTEXT_ACTIVE)
#define WANTED OWN_CONTEXT TEXT(EXO_CONTEXT_CPU_WANTED)
#define NOT_RELEASING "$~(1 << " TEXT(EXO_UPCALL_PLEASE_RELEASE_CPU) ")"

#define YIELD "mov $" TEXT(EXO_CALL_YIELD) ", %eax; xor %edi, %edi; syscall; ud2\n"

/* From here on the up-call may come: rbx has the seed, rcx the turns, nothing else is worth anything. */
#define OPEN "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n" \
             "mov %rdi, %rbx; mov %rsi, %rcx; xor %eax, %eax; movabs %rax, " CRITICAL "; mov %rbx, %rax\n"
/* And until here; rbx has the result. */
#define CLOSE "mov $1, %eax; movabs %rax, " CRITICAL "; mov %rbx, %rax\n" \
              "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"

#define MIX "imul $1664525, %rax, %rax; add $1013904223, %rax; add %rax, %rbx; rol $7, %rbx\n"

/* The result depends on every register at every turn. */
#define ZERO_16 "mov %rbx, %rdx; mov %rbx, %rsi; mov %rbx, %rdi; mov %rbx, %rbp; mov %rbx, %r8; mov %rbx, %r9\n" \
                "mov %rbx, %r10; mov %rbx, %r11; mov %rbx, %r12; mov %rbx, %r13; mov %rbx, %r14; mov %rbx, %r15\n"
#define MIX_16 "add %rbx, %rdx; add %rdx, %rsi; add %rsi, %rdi; add %rdi, %rbp; add %rbp, %r8; add %r8, %r9\n" \
               "add %r9, %r10; add %r10, %r11; add %r11, %r12; add %r12, %r13; add %r13, %r14; add %r14, %r15\n" \
               "xor %r15, %rbx\n"
#define EACH_VECTOR(DO) DO(0, 1) DO(1, 2) DO(2, 3) DO(3, 4) DO(4, 5) DO(5, 6) DO(6, 7) DO(7, 8) DO(8, 9) DO(9, 10) \
                        DO(10, 11) DO(11, 12) DO(12, 13) DO(13, 14) DO(14, 15) DO(15, 0)
#define START_VECTOR(n, m) "movq %rbx, %xmm" #n "\n"
#define MIX_VECTOR(n, m) "paddq %xmm" #n ", %xmm" #m "\n"
#define SAVE_VECTOR(n, m) "movups %xmm" #n ", kept + 128 + 16 * " #n "\n"
#define LOAD_VECTOR(n, m) "movups kept + 128 + 16 * " #n ", %xmm" #n "\n"

#define EACH_3(DO) DO(rax, 0) DO(rbx, 1) DO(rcx, 2)
#define EACH_OTHER(DO) DO(rdx, 3) DO(rsi, 4) DO(rbp, 5) DO(r8, 6) DO(r9, 7) DO(r10, 8) DO(r11, 9) DO(r12, 10) \
                       DO(r13, 11) DO(r14, 12) DO(r15, 13)
#define SAVE(name, n) "mov %" #name ", kept + 8 * " #n "\n"
#define LOAD(name, n) "mov kept + 8 * " #n ", %" #name "\n"

/* At the end of resuming: rsp is the top of the up-call stack, under it lie the frame for iretq and below that rdi. */
#define NO_LONGER_RELEASING "movabs $" ACTIVE ", %rdi; andq " NOT_RELEASING ", (%rdi)\n"

__asm__(".text\n"
        "work_3:\n" OPEN "1:" MIX "dec %rcx; jnz 1b\n" CLOSE
        "work_16:\n" OPEN ZERO_16 "1:" MIX MIX_16 "dec %rcx; jnz 1b\n" CLOSE
        "work_vector:\n" OPEN ZERO_16 EACH_VECTOR(START_VECTOR)
        "1:" MIX MIX_16 "movq %rbx, %xmm0\n" EACH_VECTOR(MIX_VECTOR) "movq %xmm0, %rbx; dec %rcx; jnz 1b\n" CLOSE

        "release_3:\n" EACH_3(SAVE) YIELD
        "resume_3:\n" EACH_3(LOAD) NO_LONGER_RELEASING "sub $40, %rsp; iretq\n"
        "release_16:\n" EACH_3(SAVE) EACH_OTHER(SAVE) YIELD
        "resume_16:\n" EACH_3(LOAD) EACH_OTHER(LOAD) NO_LONGER_RELEASING "sub $48, %rsp; pop %rdi; iretq\n"
        "release_vector:\n" EACH_3(SAVE) EACH_OTHER(SAVE) EACH_VECTOR(SAVE_VECTOR) "stmxcsr kept + 120\n" YIELD
        "resume_vector:\n" EACH_VECTOR(LOAD_VECTOR) "ldmxcsr kept + 120\n" EACH_3(LOAD) EACH_OTHER(LOAD)
        NO_LONGER_RELEASING "sub $48, %rsp; pop %rdi; iretq\n"

        "work_3_polling:\n"
        "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; mov %rsp, kept + 24\n"
        "mov %rdi, %rbx; mov %rsi, %rcx; mov %rbx, %rax; movabs $" WANTED ", %rdx\n"
        "1:" MIX "cmpq $0, (%rdx); jne 3f; 2: dec %rcx; jnz 1b\n" CLOSE
        "3:" EACH_3(SAVE) YIELD
        "resume_polling:\n" EACH_3(LOAD) "movabs $" WANTED ", %rdx; mov kept + 24, %rsp; jmp 2b\n");

static const struct way {
    const char *name;
    void (*release)(void), (*resume)(void);
} ways[] = {
    {"3", release_3, resume_3},          {"16", release_16, resume_16},
    {"vector", release_vector, resume_vector}, {"polling", release_3, resume_polling},
    {"kernel", NULL, NULL},
};

static const struct work {
    const char *name;
    uint64_t (*compute)(uint64_t seed, uint64_t turns);
} works[] = {{"3", work_3}, {"16", work_16}, {"vector", work_vector}, {"polling", work_3_polling}};

/* The place of a word in a table whose rows begin with a name. */
static const void *named(const char *sentence, const char *word, const void *table, size_t row, size_t rows) {
    for (const char *place = table; rows-- > 0; place += row) {
        const char *name;
        memcpy(&name, place, sizeof name);
        if (strcmp(name, word) == 0) {
            return place;
        }
    }
    stop(2, sentence, word);
}

static void set_entries(const struct way *way) {
    exo_set_upcall(EXO_UPCALL_RESUME_CPU, way == NULL ? 0 : (uint64_t)way->resume, EXO_SELF);
    exo_set_upcall(EXO_UPCALL_PLEASE_RELEASE_CPU, way == NULL ? 0 : (uint64_t)way->release, EXO_SELF);
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 5) {
        stop(2, "registers: give what is used and what is saved and, if you like, a number of turns and a seed", "");
    }
    const struct way *way = named("registers: what is saved is 3, 16, vector, polling or kernel, not ", argv[2], ways,
                                  sizeof *ways, sizeof ways / sizeof *ways);
    const bool polls = strcmp(argv[2], "polling") == 0;
    if (polls && strcmp(argv[1], "3") != 0) {
        stop(2, "registers: only work in 3 registers does its own polling, not ", argv[1]);
    }
    const struct work *work = named("registers: what is used is 3, 16 or vector, not ", polls ? argv[2] : argv[1], works,
                                    sizeof *works, sizeof works / sizeof *works);
    uint64_t turns = 100000, seed = 1;
    if (argc > 3) {
        turns = number_argument("registers: the third argument, turns, is a number", argv[3], 1, UINT64_C(1) << 40);
    }
    if (argc > 4) {
        seed = number_argument("registers: the fourth argument, the seed, is a number", argv[4], 0, UINT64_MAX);
    }
    kept[0] = 0; /* touched, so that the up-calls find the page */
    exo_yield(0); /* a new slice, lest the processor be wanted before the computation has begun */
    volatile struct exo_own_context *own = &EXO_OWN->contexts[0];
    own->critical = 1;
    if (way->release != NULL) {
        set_entries(way);
    }
    const uint64_t checksum = work->compute(seed, turns);
    set_entries(NULL);
    own->critical = 0;
    if (own->cpu_wanted) {
        exo_yield(0);
    }
    print_text("checksum ");
    print_number(checksum);
    print_line("");
    return 0;
}
