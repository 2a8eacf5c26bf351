/* What an engine and a context hold, the Unicorn functions it calls, and its view of guest memory.
 *
 * Guest memory is read through the page tables as they are now, not through the TLB; whoever changes a table flushes the
 * TLB before the next run, so within a run the two agree.
 */
#ifndef EXOKERNEL_STATE_H
#define EXOKERNEL_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <structmember.h>

#include "_operand.h"

/* The words with a place of their own in a saved state: all but RIP and RFLAGS, which Unicorn computes. */
enum { PLACED = WORDS - 2 };

static unsigned placed(unsigned i) {
    return i < RIP ? i : i + 2;
}

/* Unicorn's numbers for registers, hooks, controls, errors. */
enum {
    X86_EFLAGS = 25, X86_RIP = 41, X86_CS = 11, X86_CR2 = 52, X86_RCX = 38, X86_RSP = 44,
    X86_FP0 = 82, X86_FPSW = 31, X86_XMM0 = 122, X86_FPCW = 246, X86_FPTAG = 247, X86_MXCSR = 249,
};
enum { INSN_CPUID = 113, INSN_IN = 218, INSN_OUT = 500, INSN_SYSCALL = 699, INSN_SYSENTER = 700 };
enum { HOOK_INTR = 1, HOOK_INSN = 2, HOOK_BLOCK = 8, HOOK_MEM_READ = 1024, HOOK_MEM_WRITE = 2048, MEM_WRITE = 17 };
enum { ERR_OK = 0, ERR_INSN_INVALID = 10 };
#define CTL_REQUEST_BLOCK (8 | 2 << 26 | (int)(3u << 30))
#define CTL_FLUSH_BLOCKS (10 | 1 << 30)
#define CTL_FLUSH_TLB (11 | 1 << 30)

enum { TRAP_BUDGET, TRAP_DOWNCALL, TRAP_PAGE_FAULT, TRAP_EXCEPTION, TRAP_INTERRUPT, TRAP_PRIVILEGED, TRAP_KINDS };

#define FLAG_TF 0x100u
#define FLAGS_KEPT 0x244dd5u /* CF PF AF ZF SF TF DF OF NT AC ID */
#define FLAGS_ALWAYS 0x202u
#define FLAG_ZF 0x40u
#define USER_CODE 0x23u
#define FETCH 0x10u
#define FAULT_USER 4u
#define ENTRY_ADDRESS 0xffffffffff000ull
#define LAST_USER_PAGE 0x7ffffffffull
#define PAGE 4096u
#define ENTRY_PRESENT 1u
#define ENTRY_WRITABLE 2u
#define ENTRY_USER 4u
#define ENTRY_NX ((uint64_t)1 << 63)

typedef struct {
    int (*emu_start)(void *, uint64_t, uint64_t, uint64_t, size_t);
    int (*emu_stop)(void *);
    int (*reg_read)(void *, int, void *);
    int (*reg_write)(void *, int, const void *);
    int (*reg_read_batch)(void *, int *, void **, int);
    int (*reg_write_batch)(void *, int *, void *const *, int);
    int (*hook_add)(void *, size_t *, int, void *, void *, uint64_t, uint64_t, ...);
    int (*ctl)(void *, int, ...);
    int (*context_save)(void *, void *);
    int (*context_restore)(void *, void *);
    int (*context_alloc)(void *, void **);
    int (*context_free)(void *);
    int (*context_read_batch)(void *, int *, void **, int);
    int (*close)(void *);
} Unicorn;
enum { FUNCTIONS = sizeof(Unicorn) / sizeof(void *) };

/* A counted block. `match` is its size, or 0 for a block that `on_block` must not take without a closer look. */
typedef struct {
    uint64_t pc, space;
    uint32_t match, size, count, kind;
} Block;
enum { BLOCKS = 16384, BLOCK_BYTES = PAGE + 64 };
enum { BLOCK_PLAIN, BLOCK_STEPPED, BLOCK_LOADS_FLAGS, BLOCK_INTERRUPTS };

/* Why the emulation was stopped. */
enum halt { NOT, SPENT, STEP, STEPPED, REWIND, TRACED, SYSCALL, BEFORE, VECTOR, BREACH };

typedef struct Engine Engine;

/* A processor state put aside for a context: of use to the engine with that number, readable without any. */
typedef struct {
    uint64_t engine;                           /* 0: nothing is kept */
    int (*read_batch)(void *, int *, void **, int);
    _Alignas(16) uint8_t state[];
} Kept;

/* An instruction whose load has been made and whose store has not; good for one run of one engine. */
typedef struct {
    uint64_t engine, run;                      /* engine 0: there is none */
    uint64_t root, rip, va;
    uint8_t *at;                               /* the operand in host memory */
    unsigned size;
    uint8_t code[15], loaded[8];
} Half;

/* The newest vector registers are in the processor of `home`, else in `kept`, else in `vector`. */
typedef struct {
    PyObject_HEAD
    PyObject *words_view, *vector_view;
    uint64_t *words;
    uint8_t *vector;
    Engine *home;
    Kept *kept;
    Half half;
} Context;

typedef struct {
    PyObject_HEAD
    PyObject *kind;
    unsigned long long cycles, address;
    long long code;
} Trap;

struct Engine {
    PyObject_HEAD
    Unicorn uc;
    void *handle;
    PyObject *kinds[TRAP_KINDS];
    Py_buffer executed;
    Trap *trap;
    uint8_t *memory;
    uint64_t size;
    void *home, *scratch, *front;              /* saved processor states; `front` is only the beginning of one */
    unsigned old_exception, error_code, cr3;   /* offsets in them */
    unsigned word_at[PLACED], header;          /* more of them; the processor begins after the header */
    size_t state_size;
    Context *resident;
    int flush_tlb, flush_code, running, split;
    uint64_t root, space, generation, number, runs;

    uint64_t remaining, expected_space;        /* `expected_space` is 0 to send every block the slow way */
    unsigned salt;                             /* of the space, for the table of blocks */
    Block *current, *blocks;
    enum halt halt;
    uint64_t halt_pc;
    unsigned vector;
    int watching;                              /* the block just taken ends by loading the flags */

    int stepping, guest_tf, stepped;
    uint64_t low, high, step_pc, step_rcx;     /* stepping lasts while low <= pc < high */
    Instruction instruction;

    uint64_t record_low, record_high, last_reference, *references, *pages;
    size_t reference_count, reference_room;
    int recording, record_failed;

    uint8_t bytes[BLOCK_BYTES];
};

/* Host address of guest byte `va` in the current space, or NULL where nothing is mapped or an entry on the way has not
 * all of the bits `needed` or any of the bits `refused`. */
static uint8_t *reach(Engine *e, uint64_t va, uint64_t needed, uint64_t refused) {
    uint64_t table = e->root, entry, mask;
    for (int shift = 39;; shift -= 9) {
        if (table + PAGE > e->size)
            return NULL;
        entry = ((uint64_t *)(e->memory + table))[va >> shift & 511];
        if ((entry & needed) != needed || entry & refused)
            return NULL;
        if (shift == 12 || (shift < 39 && entry & 0x80)) {
            mask = ((uint64_t)1 << shift) - 1;
            table = (entry & ENTRY_ADDRESS & ~mask) | (va & mask);
            return table < e->size ? e->memory + table : NULL;
        }
        table = entry & ENTRY_ADDRESS;
    }
}

static uint8_t *resolve(Engine *e, uint64_t va) {
    return reach(e, va, ENTRY_PRESENT, 0);
}

/* Copies up to `length` bytes of code at `va` and returns how many were mapped; marks their frames as executed. */
static unsigned fetch(Engine *e, uint64_t va, uint8_t *out, unsigned length, unsigned marked) {
    unsigned done = 0;
    while (done < length) {
        uint8_t *from = resolve(e, va + done);
        unsigned part = PAGE - (unsigned)((va + done) & (PAGE - 1));
        if (!from)
            break;
        if (part > length - done)
            part = length - done;
        memcpy(out + done, from, part);
        if (done < marked)
            ((uint8_t *)e->executed.buf)[(size_t)(from - e->memory) / PAGE] = 1;
        done += part;
    }
    return done;
}

static uint32_t read_flags(Engine *e) {
    uint64_t flags = 0;
    e->uc.reg_read(e->handle, X86_EFLAGS, &flags);
    return (uint32_t)flags;
}

static uint64_t read_register(Engine *e, int id) {
    uint64_t value = 0;
    e->uc.reg_read(e->handle, id, &value);
    return value;
}

static void set_trap_flag(Engine *e, int on) {
    uint64_t flags = (read_flags(e) & ~FLAG_TF) | (on ? FLAG_TF : 0);
    e->uc.reg_write(e->handle, X86_EFLAGS, &flags);
}

static void halt(Engine *e, enum halt why, uint64_t pc) {
    e->halt = why;
    e->halt_pc = pc;
    e->uc.emu_stop(e->handle);
}

#endif
