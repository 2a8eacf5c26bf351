/* The run loop: one CPU over Unicorn, entered from Python once per trap.
 *
 * `Engine.run(context, root, budget)` loads the registers of a `Context`, lets guest code run in ring 3 until it traps,
 * stores the registers back and fills the engine's one `Trap`. Rules:
 *
 *  - The clock is exact. A hook before each translated block takes the block's instruction count off the budget. A
 *    block that faults gives back what it did not execute. Where a whole block does not fit the rest of the budget, or
 *    holds an instruction that must be seen before it is executed, the guest is single-stepped with the trap flag
 *    (`stepping`), which the guest neither sees nor loses.
 *  - `space` names the root and the generation of the mappings; counts are never used in another space.
 *  - A context's vector registers stay in the engine while the context is `resident`; whoever wants to read them calls
 *    `leave_home` first. Context and engine point at each other without owning each other.
 *  - Before another context or another root, the whole processor state is set back to `home`, the state just after
 *    ring 3 was entered, so nothing of the one before remains.
 *  - Unicorn never resets `old_exception` after an exception; `acknowledge` does, or the next would be a double fault.
 *
 * Unicorn is used through addresses of functions in the library that the `unicorn` package has loaded.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <structmember.h>

#include "_decode.h"

enum { RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, RIP = 16, RFLAGS, FS_BASE, GS_BASE, WORDS };

/* Unicorn's numbers for registers, hooks, controls, errors. */
enum {
    X86_EFLAGS = 25, X86_RIP = 41, X86_CS = 11, X86_CR2 = 52, X86_RCX = 38, X86_RSP = 44,
    X86_FP0 = 82, X86_FPSW = 31, X86_XMM0 = 122, X86_FPCW = 246, X86_FPTAG = 247, X86_MXCSR = 249,
    X86_FS_BASE = 250, X86_GS_BASE = 251,
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
#define ENTRY_ADDRESS 0xffffffffff000ull
#define LAST_USER_PAGE 0x7ffffffffull
#define PAGE 4096u

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
} Unicorn;
enum { FUNCTIONS = sizeof(Unicorn) / sizeof(void *) };

/* A counted block. `match` is its size, or 0 for a block that `on_block` must not take without a closer look. */
typedef struct {
    uint64_t pc, space;
    uint32_t match, size, count, kind;
} Block;
enum { BLOCKS = 16384, BLOCK_BYTES = PAGE + 64 };
enum { BLOCK_PLAIN, BLOCK_STEPPED, BLOCK_LOADS_FLAGS };

/* Why the emulation was stopped. */
enum halt { NOT, SPENT, STEP, STEPPED, REWIND, TRACED, SYSCALL, BEFORE, VECTOR, BREACH };

typedef struct Engine Engine;

typedef struct {
    PyObject_HEAD
    PyObject *words_view, *vector_view;
    uint64_t *words;
    uint8_t *vector;
    Engine *home;
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
    PyObject *owner, *kinds[TRAP_KINDS];
    Py_buffer executed;
    Trap *trap;
    uint8_t *memory;
    uint64_t size;
    void *home, *scratch;                      /* saved processor states */
    unsigned old_exception, error_code, cr3;   /* offsets in them */
    Context *resident;
    int flush_tlb, flush_code, running;
    uint64_t root, space, generation;

    uint64_t remaining, expected_space;        /* `expected_space` is 0 to send every block the slow way */
    Block *current, *blocks;
    enum halt halt;
    uint64_t halt_pc, hook_rip;
    unsigned vector;
    int watching;                              /* the block just taken ends by loading the flags */

    int stepping, guest_tf, stepped;
    uint64_t low, high, step_pc, step_rcx;     /* stepping lasts while low <= pc < high */
    Instruction instruction;

    uint64_t record_low, record_high, last_reference, *references;
    size_t reference_count, reference_room;
    int recording, record_failed;

    uint8_t bytes[BLOCK_BYTES];
};

static PyObject *MachineError;
static PyTypeObject ContextType, TrapType, EngineType;

/* The words but RIP, which `emu_start` takes. */
enum { LOADED = WORDS - 1 };
static int word_ids[LOADED] = {35, 37, 38, 40, 43, 39, 36, 44, 106, 107, 108, 109, 110, 111, 112, 113,
                               X86_EFLAGS, X86_FS_BASE, X86_GS_BASE};

static void word_places(uint64_t *words, uint64_t *flags, void **places) {
    for (int i = 0; i < 16; i++)
        places[i] = &words[i];
    places[16] = flags;
    places[17] = &words[FS_BASE];
    places[18] = &words[GS_BASE];
}

/* ---- memory ---- */

/* Host address of guest byte `va` in the current space, or NULL where nothing is mapped. */
static uint8_t *resolve(Engine *e, uint64_t va) {
    uint64_t table = e->root, entry, mask;
    for (int shift = 39;; shift -= 9) {
        if (table + PAGE > e->size)
            return NULL;
        entry = ((uint64_t *)(e->memory + table))[va >> shift & 511];
        if (!(entry & 1))
            return NULL;
        if (shift == 12 || (shift < 39 && entry & 0x80)) {
            mask = ((uint64_t)1 << shift) - 1;
            table = (entry & ENTRY_ADDRESS & ~mask) | (va & mask);
            return table < e->size ? e->memory + table : NULL;
        }
        table = entry & ENTRY_ADDRESS;
    }
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

/* ---- blocks ---- */

static void halt(Engine *e, enum halt why, uint64_t pc) {
    e->halt = why;
    e->halt_pc = pc;
    e->uc.emu_stop(e->handle);
}

static unsigned slot(uint64_t pc) {
    return (unsigned)(pc ^ pc >> 14) & (BLOCKS - 1);
}

/* Decodes the bytes of a block into its count; says if it has to be single-stepped. */
static uint32_t survey(const uint8_t *bytes, uint32_t size, uint32_t *count) {
    uint32_t at = 0;
    Instruction found = {0, PLAIN, 0, 0, 0};
    for (*count = 0; at < size; at += found.length, ++*count) {
        found = decode(bytes + at, size - at);
        if (!found.length || found.kind == PRIVILEGED || found.kind == REFUSED || found.kind == DEBUG_TRAP)
            return BLOCK_STEPPED;
    }
    return found.kind == LOADS_FLAGS ? BLOCK_LOADS_FLAGS : BLOCK_PLAIN;
}

/* Fills the table's entry for a block seen for the first time in this space. */
static Block *learn(Engine *e, uint64_t pc, uint32_t size) {
    struct { uint64_t pc; uint16_t count, size; } translated = {0, 0, 0};
    Block *b = &e->blocks[slot(pc)];
    b->pc = pc;
    b->space = e->space;
    b->size = size;
    b->kind = BLOCK_STEPPED;
    if (size && size <= BLOCK_BYTES && fetch(e, pc, e->bytes, size, size) == size
        && (pc + size - 1) >> 12 < LAST_USER_PAGE)
        b->kind = survey(e->bytes, size, &b->count);
    if (b->kind != BLOCK_STEPPED
        && (e->uc.ctl(e->handle, CTL_REQUEST_BLOCK, pc, &translated) || translated.count != b->count))
        b->kind = BLOCK_STEPPED;
    b->match = b->kind == BLOCK_PLAIN ? size : 0;
    return b;
}

/* Instructions of block `b` before address `rip`. */
static uint64_t count_before(Engine *e, const Block *b, uint64_t rip) {
    uint32_t at = 0, before = 0;
    unsigned size = fetch(e, b->pc, e->bytes, b->size, 0);
    while (at < rip - b->pc && at < size) {
        Instruction found = decode(e->bytes + at, size - at);
        if (!found.length)
            break;
        at += found.length;
        before++;
    }
    return before;
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

/* The hook before an instruction while stepping. */
static void before_step(Engine *e, uint64_t pc) {
    unsigned length;
    e->stepped = 0;
    if (pc < e->low || pc >= e->high) {
        halt(e, STEPPED, pc);
        return;
    }
    if (!e->remaining) {
        halt(e, SPENT, pc);
        return;
    }
    length = fetch(e, pc, e->bytes, 15, 1);
    e->instruction = decode(e->bytes, length);
    length = e->instruction.length;
    fetch(e, pc, e->bytes, length, length);
    e->step_pc = pc;
    switch (e->instruction.kind) {
    case PRIVILEGED: case REFUSED: case DEBUG_TRAP:
        halt(e, BEFORE, pc);
        return;
    case REPEATED:
        e->step_rcx = read_register(e, X86_RCX);
        break;
    }
    e->stepped = 1;
    e->remaining--;
}

/* Stepping omits the pass of a rep instruction that only finds the count at zero; true if it is still to be made. */
static int owes_a_pass(Engine *e, uint64_t rip) {
    uint64_t mask = e->instruction.address32 ? 0xffffffffu : UINT64_MAX;
    uint8_t operation = e->instruction.opcode & 0xfe;
    if (rip == e->step_pc || !(e->step_rcx & mask) || read_register(e, X86_RCX) & mask)
        return 0;
    if (operation == 0xa6 || operation == 0xae)
        return !!(read_flags(e) & FLAG_ZF) == (e->instruction.rep == 0xf3);
    return 1;
}

/* The debug exception after an instruction while stepping: hide our trap flag, honour the guest's. */
static void after_step(Engine *e) {
    int had_tf = e->guest_tf;
    uint64_t rip = read_register(e, X86_RIP);
    switch (e->instruction.kind) {
    case PUSHES_FLAGS:
        if (!had_tf) {
            uint8_t *high_byte = resolve(e, read_register(e, X86_RSP) + 1);
            if (high_byte)
                *high_byte &= (uint8_t)~(FLAG_TF >> 8);
        }
        break;
    case LOADS_FLAGS:
        e->guest_tf = !!(read_flags(e) & FLAG_TF);
        if (!e->guest_tf)
            set_trap_flag(e, 1);
        break;
    case REPEATED:
        if (owes_a_pass(e, rip)) {
            rip = e->step_pc;
            if (!had_tf)
                halt(e, REWIND, rip);
        }
        break;
    }
    if (had_tf)
        halt(e, TRACED, rip);
}

static void block_slowly(Engine *e, uint64_t pc, uint32_t size) {
    Block *b = &e->blocks[slot(pc)];
    if (e->halt || !e->home)
        return;
    if (e->stepping) {
        before_step(e, pc);
        return;
    }
    e->current = NULL;
    e->low = 0;
    e->high = UINT64_MAX;
    if (!e->remaining) {
        halt(e, SPENT, pc);
        return;
    }
    if (e->watching) {
        e->watching = 0;
        e->expected_space = e->space;
        if (read_flags(e) & FLAG_TF) {
            halt(e, STEP, pc);
            return;
        }
    }
    if (b->pc != pc || b->space != e->space || b->size != size)
        b = learn(e, pc, size);
    if (b->kind == BLOCK_STEPPED) {
        e->low = pc;
        e->high = pc + size;
        halt(e, STEP, pc);
    } else if (e->remaining < b->count) {
        halt(e, STEP, pc);
    } else {
        e->remaining -= b->count;
        e->current = b;
        if (b->kind == BLOCK_LOADS_FLAGS) {
            e->watching = 1;
            e->expected_space = 0;
        }
    }
}

/* ---- hooks ---- */

static void on_block(void *uc, uint64_t pc, uint32_t size, void *data) {
    Engine *e = data;
    Block *b = &e->blocks[slot(pc)];
    (void)uc;
    if (b->pc == pc && b->space == e->expected_space && b->match == size && e->remaining >= b->count) {
        e->remaining -= b->count;
        e->current = b;
    } else {
        block_slowly(e, pc, size);
    }
}

static void on_interrupt(void *uc, uint32_t vector, void *data) {
    Engine *e = data;
    (void)uc;
    if (e->halt)
        return;
    if (vector == 1 && e->stepping && e->stepped && e->instruction.kind != SOFTWARE_INTERRUPT) {
        after_step(e);
        return;
    }
    e->vector = vector;
    e->hook_rip = read_register(e, X86_RIP);
    halt(e, VECTOR, e->hook_rip);
}

static void on_syscall(void *uc, void *data) {
    Engine *e = data;
    (void)uc;
    if (!e->halt)
        halt(e, SYSCALL, 0);
}

/* These instructions are stopped before they are executed; arriving here means that `decode` missed one. */
static void on_sysenter(void *uc, void *data) {
    (void)uc;
    halt(data, BREACH, 0);
}

static int on_cpuid(void *uc, void *data) {
    (void)uc;
    halt(data, BREACH, 0);
    return 1;
}

static uint32_t on_in(void *uc, uint32_t port, int size, void *data) {
    (void)uc, (void)port, (void)size;
    halt(data, BREACH, 0);
    return 0;
}

static void on_out(void *uc, uint32_t port, int size, uint32_t value, void *data) {
    (void)uc, (void)port, (void)size, (void)value;
    halt(data, BREACH, 0);
}

static void note_reference(Engine *e, uint64_t page, int write) {
    uint64_t reference = page << 1 | (uint64_t)write;
    if (reference == e->last_reference || (reference | 1) == e->last_reference)
        return;
    if (e->reference_count == e->reference_room) {
        size_t room = e->reference_room ? 2 * e->reference_room : 4096;
        uint64_t *grown = realloc(e->references, room * sizeof *grown);
        if (!grown) {
            e->record_failed = 1;
            return;
        }
        e->references = grown;
        e->reference_room = room;
    }
    e->references[e->reference_count++] = e->last_reference = reference;
}

static void on_memory(void *uc, int type, uint64_t address, int size, int64_t value, void *data) {
    Engine *e = data;
    uint64_t last = address + (uint64_t)(size > 0 ? size - 1 : 0);
    (void)uc, (void)value;
    for (uint64_t page = address >> 12; page <= last >> 12; page++)
        if (page >= e->record_low >> 12 && page < e->record_high >> 12)
            note_reference(e, page, type == MEM_WRITE);
}

/* ---- vector registers: FXSAVE layout ---- */

enum { VECTOR_REGISTERS = 28 };
typedef struct {
    uint64_t fp[8][2];
    uint64_t control, status, tag, mxcsr;
} Floating;
static int vector_ids[VECTOR_REGISTERS];

static void vector_places(Floating *f, uint8_t *vector, void **places) {
    for (int i = 0; i < 8; i++)
        places[i] = f->fp[i];
    places[8] = &f->control;
    places[9] = &f->status;
    places[10] = &f->tag;
    places[11] = &f->mxcsr;
    for (int i = 0; i < 16; i++)
        places[12 + i] = vector + 160 + 16 * i;
}

static void put16(uint8_t *to, uint64_t value) {
    uint16_t word = (uint16_t)value;
    memcpy(to, &word, 2);
}

static uint16_t get16(const uint8_t *from) {
    uint16_t word;
    memcpy(&word, from, 2);
    return word;
}

static void save_vector(Engine *e, uint8_t *vector) {
    Floating f;
    void *places[VECTOR_REGISTERS];
    unsigned tag = 0;
    uint32_t mxcsr;
    memset(&f, 0, sizeof f);
    vector_places(&f, vector, places);
    e->uc.reg_read_batch(e->handle, vector_ids, places, VECTOR_REGISTERS);
    for (unsigned i = 0; i < 8; i++) {
        tag |= (unsigned)((f.tag >> 2 * i & 3) != 3) << i;
        memset(vector + 32 + 16 * i, 0, 16);
        memcpy(vector + 32 + 16 * i, f.fp[(i + (f.status >> 11)) & 7], 10);
    }
    memset(vector, 0, 32);
    put16(vector, f.control);
    put16(vector + 2, f.status);
    vector[4] = (uint8_t)tag;
    mxcsr = (uint32_t)f.mxcsr;
    memcpy(vector + 24, &mxcsr, 4);
}

static void load_vector(Engine *e, uint8_t *vector) {
    Floating f;
    void *places[VECTOR_REGISTERS];
    uint32_t mxcsr;
    memset(&f, 0, sizeof f);
    vector_places(&f, vector, places);
    f.control = get16(vector);
    f.status = get16(vector + 2);
    for (unsigned i = 0; i < 8; i++) {
        f.tag |= (uint64_t)(vector[4] >> i & 1 ? 0 : 3) << 2 * i;
        memcpy(f.fp[(i + (f.status >> 11)) & 7], vector + 32 + 16 * i, 10);
    }
    memcpy(&mxcsr, vector + 24, 4);
    f.mxcsr = mxcsr & 0xffff;
    e->uc.reg_write_batch(e->handle, vector_ids, places, VECTOR_REGISTERS);
}

static void leave_home(Context *c) {
    Engine *e = c->home;
    if (!e)
        return;
    save_vector(e, c->vector);
    e->resident = NULL;
    c->home = NULL;
}

/* ---- run ---- */

static void new_space(Engine *e) {
    e->space = e->generation << 20 | e->root >> 12;
}

static void apply_flushes(Engine *e) {
    if (e->flush_code)
        e->uc.ctl(e->handle, CTL_FLUSH_BLOCKS);
    if (e->flush_tlb)
        e->uc.ctl(e->handle, CTL_FLUSH_TLB);
    e->flush_code = e->flush_tlb = 0;
}

/* Makes the processor hold the registers of `c` and nothing else. */
static void load(Engine *e, Context *c, uint64_t root) {
    void *places[LOADED];
    uint64_t flags = (c->words[RFLAGS] & FLAGS_KEPT) | FLAGS_ALWAYS;
    if (e->resident != c || e->root != root) {
        if (c->home)
            leave_home(c);
        if (e->resident)
            leave_home(e->resident);
        memcpy((uint8_t *)e->home + e->cr3, &root, sizeof root);
        e->uc.context_restore(e->handle, e->home);
        if (e->root != root) {
            e->root = root;
            e->flush_tlb = 1;
        }
        load_vector(e, c->vector);
        e->resident = c;
        c->home = e;
    }
    apply_flushes(e);
    new_space(e);
    word_places(c->words, &flags, places);
    e->uc.reg_write_batch(e->handle, word_ids, places, LOADED);
    e->guest_tf = !!(flags & FLAG_TF);
    e->stepping = e->guest_tf;
    e->low = 0;
    e->high = UINT64_MAX;
    e->stepped = e->watching = 0;
    e->current = NULL;
}

static void store(Engine *e, Context *c, uint64_t rip) {
    void *places[LOADED];
    uint64_t flags = 0;
    word_places(c->words, &flags, places);
    e->uc.reg_read_batch(e->handle, word_ids, places, LOADED);
    if (e->stepping)
        flags = (flags & ~(uint64_t)FLAG_TF) | (e->guest_tf ? FLAG_TF : 0);
    c->words[RFLAGS] = (flags & FLAGS_KEPT) | FLAGS_ALWAYS;
    c->words[RIP] = rip;
}

static void set_trap(Engine *e, int kind, long long code, uint64_t address) {
    PyObject *old = e->trap->kind;
    Py_INCREF(e->kinds[kind]);
    e->trap->kind = e->kinds[kind];
    Py_XDECREF(old);
    e->trap->code = code;
    e->trap->address = address;
}

static void begin_stepping(Engine *e) {
    e->guest_tf = !!(read_flags(e) & FLAG_TF);
    if (!e->guest_tf)
        set_trap_flag(e, 1);
    e->stepping = 1;
    e->stepped = 0;
    e->current = NULL;
}

static void end_stepping(Engine *e) {
    set_trap_flag(e, e->guest_tf);
    if (!e->guest_tf)
        e->stepping = 0;
    e->low = 0;
    e->high = UINT64_MAX;
}

/* Makes the processor forget the exception it delivered; returns the error code of that exception. */
static uint32_t acknowledge(Engine *e) {
    uint32_t code;
    int32_t none = -1;
    e->uc.context_save(e->handle, e->scratch);
    memcpy(&code, (uint8_t *)e->scratch + e->error_code, sizeof code);
    memcpy((uint8_t *)e->scratch + e->old_exception, &none, sizeof none);
    e->uc.context_restore(e->handle, e->scratch);
    return code;
}

/* Gives back the budget of what the current block did not execute because of a fault at `rip`. */
static void give_back(Engine *e, uint64_t rip) {
    if (e->stepping)
        e->remaining += (uint64_t)e->stepped;
    else if (e->current && rip - e->current->pc < e->current->size)
        e->remaining += e->current->count - count_before(e, e->current, rip);
}

static int in_current(const Engine *e, uint64_t rip) {
    if (e->stepping)
        return e->stepped && rip == e->step_pc;
    return e->current && rip - e->current->pc < e->current->size;
}

/* A vector arrived. Returns 1 if it is the trap, 0 if the guest has to go on to find out. */
static int on_vector(Engine *e, uint64_t *rip) {
    uint64_t address = 0;
    uint32_t code;
    *rip = read_register(e, X86_RIP);
    if (e->vector == 1 && *rip == e->hook_rip) {
        set_trap(e, TRAP_EXCEPTION, 1, 0);
        return 1;
    }
    code = acknowledge(e);
    if (*rip != e->hook_rip) {
        set_trap(e, TRAP_INTERRUPT, e->vector, 0);
        return 1;
    }
    if (e->vector == 14)
        address = read_register(e, X86_CR2);
    if (e->vector == 14 ? !!(code & FETCH) : e->vector == 13 && !in_current(e, *rip)) {
        int elsewhere = e->vector == 14 ? address >> 12 != *rip >> 12 : *rip >> 12 == LAST_USER_PAGE;
        if (elsewhere && !e->stepping) {
            /* Translation met the fault ahead of execution: the instructions before it still have to run. */
            begin_stepping(e);
            e->low = *rip;
            e->high = (*rip | (PAGE - 1)) + 1;
            return 0;
        }
        if (!e->remaining) {
            set_trap(e, TRAP_BUDGET, 0, 0);
            return 1;
        }
    } else {
        give_back(e, *rip);
    }
    if (e->vector == 14)
        set_trap(e, TRAP_PAGE_FAULT, code, address);
    else
        set_trap(e, TRAP_EXCEPTION, e->vector, code);
    return 1;
}

/* The processor refused an instruction: invalid, or `int 6`, which Unicorn does not tell apart. */
static void on_invalid(Engine *e, uint64_t *rip) {
    Instruction found;
    *rip = read_register(e, X86_RIP);
    found = decode(e->bytes, fetch(e, *rip, e->bytes, 15, 0));
    acknowledge(e);
    if (found.kind == SOFTWARE_INTERRUPT) {
        *rip += found.length;
        set_trap(e, TRAP_INTERRUPT, 6, 0);
    } else {
        give_back(e, *rip);
        set_trap(e, TRAP_EXCEPTION, 6, 0);
    }
}

static void before_instruction(Engine *e, uint64_t *rip) {
    *rip = e->halt_pc;
    if (e->instruction.kind == PRIVILEGED) {
        set_trap(e, TRAP_PRIVILEGED, 0, 0);
    } else if (e->instruction.kind == REFUSED) {
        set_trap(e, TRAP_EXCEPTION, 13, 0);
    } else {
        *rip += e->instruction.length;
        e->remaining--;
        set_trap(e, TRAP_INTERRUPT, 1, 0);
    }
}

/* Answers one stop of the emulation: 1 the trap is set, 0 go on at `rip`, -1 the machine failed. */
static int answer(Engine *e, int error, uint64_t *rip) {
    if (e->halt == NOT && error == ERR_INSN_INVALID) {
        on_invalid(e, rip);
        return 1;
    }
    switch (e->halt) {
    case SPENT:
        *rip = e->halt_pc;
        set_trap(e, TRAP_BUDGET, 0, 0);
        return 1;
    case STEP:
        *rip = e->halt_pc;
        begin_stepping(e);
        return 0;
    case STEPPED:
        *rip = e->halt_pc;
        end_stepping(e);
        return 0;
    case REWIND:
        *rip = e->halt_pc;
        return 0;
    case TRACED:
        *rip = e->halt_pc;
        set_trap(e, TRAP_EXCEPTION, 1, 0);
        return 1;
    case SYSCALL:
        *rip = read_register(e, X86_RIP);
        set_trap(e, TRAP_DOWNCALL, 0, 0);
        return 1;
    case BEFORE:
        before_instruction(e, rip);
        return 1;
    case VECTOR:
        return on_vector(e, rip);
    default:
        *rip = read_register(e, X86_RIP);
        if (e->halt == BREACH)
            PyErr_Format(MachineError, "the guest executed a privileged instruction near %llx that should have "
                         "trapped; this is a bug of the machine", (unsigned long long)*rip);
        else
            PyErr_Format(MachineError, "Unicorn stopped at %llx with error %d; the page tables may lead beyond "
                         "physical memory", (unsigned long long)*rip, error);
        return -1;
    }
}

/* After a failure nothing in the engine is trusted: the next context starts from the state after ring 3 was entered. */
static void forget_resident(Engine *e) {
    if (e->resident)
        e->resident->home = NULL;
    e->resident = NULL;
    e->root = UINT64_MAX;
    e->flush_tlb = 1;
}

static int execute(Engine *e, uint64_t rip, uint64_t *end) {
    int result, error;
    if (e->stepping)
        begin_stepping(e);
    do {
        e->halt = NOT;
        e->expected_space = e->stepping ? 0 : e->space;
        error = e->uc.emu_start(e->handle, rip, 0, 0, 0);
        result = answer(e, error, &rip);
    } while (!result);
    *end = rip;
    return result;
}

static int arguments(Engine *e, PyObject *const *args, Py_ssize_t count, uint64_t *root, uint64_t *budget) {
    if (count != 3 || !PyObject_TypeCheck(args[0], &ContextType)) {
        PyErr_SetString(PyExc_TypeError, "run takes a MachineContext, a root and a budget");
        return -1;
    }
    *root = PyLong_AsUnsignedLongLong(args[1]);
    if (*root == UINT64_MAX && PyErr_Occurred())
        return -1;
    *budget = PyLong_AsUnsignedLongLong(args[2]);
    if (*budget == UINT64_MAX && PyErr_Occurred())
        return -1;
    if (!e->handle || !e->home || e->running) {
        PyErr_SetString(MachineError, e->running ? "the CPU is already running" : "the CPU is closed");
        return -1;
    }
    if (!*budget || *root % PAGE || *root > e->size - PAGE) {
        PyErr_SetString(PyExc_ValueError, "the budget must be positive and the root the address of a frame");
        return -1;
    }
    return 0;
}

static PyObject *engine_run(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    Engine *e = (Engine *)self;
    Context *c;
    uint64_t root, budget, rip, selector;
    int result;
    if (arguments(e, args, count, &root, &budget))
        return NULL;
    c = (Context *)args[0];
    e->running = 1;
    load(e, c, root);
    e->remaining = budget;
    result = execute(e, c->words[RIP], &rip);
    e->running = 0;
    selector = read_register(e, X86_CS);
    if (result < 0) {
        forget_resident(e);
        return NULL;
    }
    store(e, c, rip);
    if ((selector & 0xffff) != USER_CODE) {
        forget_resident(e);
        set_trap(e, TRAP_EXCEPTION, 13, 0);
    }
    if (e->record_failed) {
        e->record_failed = 0;
        return PyErr_NoMemory();
    }
    e->trap->cycles = budget - e->remaining;
    Py_INCREF(e->trap);
    return (PyObject *)e->trap;
}

/* ---- Engine ---- */

static int add_hook(Engine *e, int type, void *function, int instruction) {
    size_t id;
    int error = e->uc.hook_add(e->handle, &id, type, function, e, (uint64_t)1, (uint64_t)0, instruction);
    if (error)
        PyErr_Format(MachineError, "Unicorn refused hook %d with error %d; unicorn 2.1.4 is needed", type, error);
    return error ? -1 : 0;
}

static int add_hooks(Engine *e) {
    if (add_hook(e, HOOK_BLOCK, on_block, 0) || add_hook(e, HOOK_INTR, on_interrupt, 0)
        || add_hook(e, HOOK_INSN, on_syscall, INSN_SYSCALL) || add_hook(e, HOOK_INSN, on_sysenter, INSN_SYSENTER)
        || add_hook(e, HOOK_INSN, on_cpuid, INSN_CPUID) || add_hook(e, HOOK_INSN, on_in, INSN_IN)
        || add_hook(e, HOOK_INSN, on_out, INSN_OUT))
        return -1;
    return e->recording ? add_hook(e, HOOK_MEM_READ | HOOK_MEM_WRITE, on_memory, 0) : 0;
}

static int take_functions(Engine *e, PyObject *functions) {
    if (PyTuple_GET_SIZE(functions) != FUNCTIONS) {
        PyErr_Format(PyExc_ValueError, "%d functions are needed", FUNCTIONS);
        return -1;
    }
    for (Py_ssize_t i = 0; i < FUNCTIONS; i++) {
        void *function = PyLong_AsVoidPtr(PyTuple_GET_ITEM(functions, i));
        if (!function)
            return -1;
        memcpy((char *)&e->uc + (size_t)i * sizeof function, &function, sizeof function);
    }
    return 0;
}

static int take_kinds(Engine *e, PyObject *kinds) {
    if (PyTuple_GET_SIZE(kinds) != TRAP_KINDS) {
        PyErr_Format(PyExc_ValueError, "%d kinds are needed", TRAP_KINDS);
        return -1;
    }
    for (Py_ssize_t i = 0; i < TRAP_KINDS; i++)
        e->kinds[i] = Py_NewRef(PyTuple_GET_ITEM(kinds, i));
    e->trap = (Trap *)PyObject_CallObject((PyObject *)&TrapType, NULL);
    if (!e->trap)
        return -1;
    set_trap(e, TRAP_BUDGET, 0, 0);
    return 0;
}

static int engine_init(PyObject *self, PyObject *args, PyObject *kwargs) {
    Engine *e = (Engine *)self;
    PyObject *owner, *functions, *kinds, *executed;
    unsigned long long handle, memory, size, low, high;
    if (kwargs && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Engine takes no keyword arguments");
        return -1;
    }
    if (e->handle) {
        PyErr_SetString(PyExc_RuntimeError, "an Engine is initialised once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "OKO!KKO(III)O!(KK)", &owner, &handle, &PyTuple_Type, &functions, &memory, &size,
                          &executed, &e->old_exception, &e->error_code, &e->cr3, &PyTuple_Type, &kinds, &low, &high))
        return -1;
    if (take_functions(e, functions) || take_kinds(e, kinds)
        || PyObject_GetBuffer(executed, &e->executed, PyBUF_WRITABLE))
        return -1;
    if ((uint64_t)e->executed.len < size / PAGE) {
        PyErr_SetString(PyExc_ValueError, "one byte for each frame is needed");
        return -1;
    }
    e->owner = Py_NewRef(owner);
    e->handle = (void *)(uintptr_t)handle;
    e->memory = (uint8_t *)(uintptr_t)memory;
    e->size = size;
    e->generation = 1;
    e->root = UINT64_MAX;
    e->record_low = low;
    e->record_high = high;
    e->recording = low < high;
    e->last_reference = UINT64_MAX;
    e->blocks = calloc(BLOCKS, sizeof *e->blocks);
    if (!e->blocks) {
        PyErr_NoMemory();
        return -1;
    }
    return add_hooks(e);
}

/* Takes the processor's present state, ring 3 just entered, as the one every context starts from. */
static PyObject *engine_adopt(PyObject *self, PyObject *none) {
    Engine *e = (Engine *)self;
    (void)none;
    if (!e->handle || e->home || e->uc.context_alloc(e->handle, &e->home)
        || e->uc.context_alloc(e->handle, &e->scratch)) {
        PyErr_SetString(MachineError, "the CPU could not save its state");
        return NULL;
    }
    acknowledge(e);
    e->uc.context_save(e->handle, e->home);
    Py_RETURN_NONE;
}

static PyObject *engine_flush_tlb(PyObject *self, PyObject *none) {
    (void)none;
    ((Engine *)self)->flush_tlb = 1;
    Py_RETURN_NONE;
}

static PyObject *engine_code_changed(PyObject *self, PyObject *none) {
    (void)none;
    ((Engine *)self)->generation++;
    Py_RETURN_NONE;
}

static PyObject *engine_flush_code(PyObject *self, PyObject *none) {
    ((Engine *)self)->flush_code = 1;
    return engine_code_changed(self, none);
}

static PyObject *engine_drain_references(PyObject *self, PyObject *none) {
    Engine *e = (Engine *)self;
    PyObject *taken = PyBytes_FromStringAndSize((char *)e->references, (Py_ssize_t)(e->reference_count * 8));
    (void)none;
    if (taken)
        e->reference_count = 0;
    return taken;
}

/* Gives up everything but the memory of the object itself; may be called again. */
static void shut(Engine *e) {
    if (e->resident)
        leave_home(e->resident);
    if (e->home)
        e->uc.context_free(e->home);
    if (e->scratch)
        e->uc.context_free(e->scratch);
    e->home = e->scratch = NULL;
    e->handle = NULL;
    free(e->blocks);
    free(e->references);
    e->blocks = NULL;
    e->references = NULL;
    e->reference_count = e->reference_room = 0;
    if (e->executed.obj)
        PyBuffer_Release(&e->executed);
    Py_CLEAR(e->owner);
}

static PyObject *engine_close(PyObject *self, PyObject *none) {
    Engine *e = (Engine *)self;
    (void)none;
    if (e->running) {
        PyErr_SetString(MachineError, "the CPU is running");
        return NULL;
    }
    shut(e);
    Py_RETURN_NONE;
}

static void engine_dealloc(PyObject *self) {
    Engine *e = (Engine *)self;
    shut(e);
    for (int i = 0; i < TRAP_KINDS; i++)
        Py_XDECREF(e->kinds[i]);
    Py_XDECREF(e->trap);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef engine_methods[] = {
    {"adopt", engine_adopt, METH_NOARGS, NULL},
    {"run", (PyCFunction)(void (*)(void))engine_run, METH_FASTCALL, NULL},
    {"flush_tlb", engine_flush_tlb, METH_NOARGS, NULL},
    {"flush_code", engine_flush_code, METH_NOARGS, NULL},
    {"code_changed", engine_code_changed, METH_NOARGS, NULL},
    {"drain_references", engine_drain_references, METH_NOARGS, NULL},
    {"close", engine_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject EngineType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "exokernel.machine._engine.Engine",
    .tp_basicsize = sizeof(Engine),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_init = engine_init,
    .tp_dealloc = engine_dealloc,
    .tp_methods = engine_methods,
};

/* ---- Context and Trap ---- */

static void fresh(Context *c) {
    static const uint8_t start[4] = {0x80, 0x1f, 0, 0};
    if (c->home)
        c->home->resident = NULL;
    c->home = NULL;
    memset(c->words, 0, 8 * WORDS);
    memset(c->vector, 0, 512);
    c->words[RFLAGS] = FLAGS_ALWAYS;
    put16(c->vector, 0x37f);
    memcpy(c->vector + 24, start, 4);
}

/* A memoryview of `size` new bytes, with the address of the bytes. */
static PyObject *storage(Py_ssize_t size, const char *format, void *address) {
    PyObject *bytes = PyByteArray_FromStringAndSize(NULL, size), *view, *cast;
    if (!bytes)
        return NULL;
    *(char **)address = PyByteArray_AS_STRING(bytes);
    view = PyMemoryView_FromObject(bytes);
    Py_DECREF(bytes);
    if (!view)
        return NULL;
    cast = PyObject_CallMethod(view, "cast", "s", format);
    Py_DECREF(view);
    return cast;
}

static PyObject *context_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    Context *c = (Context *)type->tp_alloc(type, 0);
    (void)args, (void)kwargs;
    if (!c)
        return NULL;
    c->words_view = storage(8 * WORDS, "Q", &c->words);
    c->vector_view = c->words_view ? storage(512, "B", &c->vector) : NULL;
    if (!c->vector_view) {
        Py_DECREF(c);
        return NULL;
    }
    fresh(c);
    return (PyObject *)c;
}

static void context_dealloc(PyObject *self) {
    Context *c = (Context *)self;
    if (c->home)
        c->home->resident = NULL;
    Py_XDECREF(c->words_view);
    Py_XDECREF(c->vector_view);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *context_vector(PyObject *self, void *closure) {
    Context *c = (Context *)self;
    (void)closure;
    leave_home(c);
    return Py_NewRef(c->vector_view);
}

static PyObject *context_clear(PyObject *self, PyObject *none) {
    (void)none;
    fresh((Context *)self);
    Py_RETURN_NONE;
}

static PyMethodDef context_methods[] = {
    {"clear", context_clear, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef context_members[] = {
    {"words", T_OBJECT_EX, offsetof(Context, words_view), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef context_getset[] = {
    {"vector", context_vector, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyTypeObject ContextType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "exokernel.machine._engine.Context",
    .tp_basicsize = sizeof(Context),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = context_new,
    .tp_dealloc = context_dealloc,
    .tp_methods = context_methods,
    .tp_members = context_members,
    .tp_getset = context_getset,
};

static void trap_dealloc(PyObject *self) {
    Py_XDECREF(((Trap *)self)->kind);
    Py_TYPE(self)->tp_free(self);
}

static PyMemberDef trap_members[] = {
    {"kind", T_OBJECT, offsetof(Trap, kind), 0, NULL},
    {"cycles", T_ULONGLONG, offsetof(Trap, cycles), 0, NULL},
    {"code", T_LONGLONG, offsetof(Trap, code), 0, NULL},
    {"address", T_ULONGLONG, offsetof(Trap, address), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyTypeObject TrapType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "exokernel.machine._engine.Trap",
    .tp_basicsize = sizeof(Trap),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = trap_dealloc,
    .tp_members = trap_members,
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_engine", .m_size = -1};

PyMODINIT_FUNC PyInit__engine(void) {
    PyObject *m = PyModule_Create(&module);
    if (!m)
        return NULL;
    for (int i = 0; i < 8; i++)
        vector_ids[i] = X86_FP0 + i;
    vector_ids[8] = X86_FPCW;
    vector_ids[9] = X86_FPSW;
    vector_ids[10] = X86_FPTAG;
    vector_ids[11] = X86_MXCSR;
    for (int i = 0; i < 16; i++)
        vector_ids[12 + i] = X86_XMM0 + i;
    MachineError = PyErr_NewException("exokernel.machine._engine.MachineError", NULL, NULL);
    if (!MachineError || PyModule_AddObjectRef(m, "MachineError", MachineError) || PyModule_AddType(m, &ContextType)
        || PyModule_AddType(m, &TrapType) || PyModule_AddType(m, &EngineType))
        return NULL;
    return m;
}
