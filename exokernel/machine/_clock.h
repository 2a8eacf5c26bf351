/* The instruction clock: counts of translated blocks, and single steps where a count is not enough.
 *
 * Outside stepping, a block takes its whole count off `remaining` before it runs. While `stepping`, the trap flag makes
 * every block one instruction long; the guest's own flag is in `guest_tf`. The processor then skips the pass in which a
 * rep instruction finds its count at zero, and the clock makes it up by going back to the instruction.
 */
#ifndef EXOKERNEL_CLOCK_H
#define EXOKERNEL_CLOCK_H

#include "_state.h"

static unsigned slot(const Engine *e, uint64_t pc) {
    return (unsigned)(pc ^ pc >> 14 ^ e->salt) & (BLOCKS - 1);
}

static int trapped_before(Instruction found) {
    return found.kind == PRIVILEGED || found.kind == REFUSED || found.kind == INVALID || found.kind == DEBUG_TRAP;
}

/* Decodes the bytes of a block into its count; says if it has to be single-stepped. */
static uint32_t survey(const uint8_t *bytes, uint32_t size, uint32_t *count) {
    uint32_t at = 0;
    Instruction found = {.kind = PLAIN};
    for (*count = 0; at < size; at += found.length, ++*count) {
        found = decode(bytes + at, size - at);
        if (!found.length || trapped_before(found) || found.kind == FLAGS_LOST)
            return BLOCK_STEPPED;
    }
    if (found.kind == SOFTWARE_INTERRUPT)
        return BLOCK_INTERRUPTS;
    return found.kind == LOADS_FLAGS ? BLOCK_LOADS_FLAGS : BLOCK_PLAIN;
}

/* Fills the table's entry for a block seen for the first time in this space. */
static Block *learn(Engine *e, uint64_t pc, uint32_t size) {
    struct { uint64_t pc; uint16_t count, size; } translated = {0, 0, 0};
    Block *b = &e->blocks[slot(e, pc)];
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
    b->match = b->kind == BLOCK_PLAIN || b->kind == BLOCK_INTERRUPTS ? size : 0;
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

/* Unicorn derives the flags from the last result when somebody asks. An instruction that asks and then faults leaves the
 * flags of another result behind; where they have been written as flags before, they stay what they are. */
static void settle_flags(Engine *e) {
    uint64_t flags = read_flags(e);
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
    if (trapped_before(e->instruction)) {
        halt(e, BEFORE, pc);
        return;
    }
    if (e->instruction.kind == REPEATED)
        e->step_rcx = read_register(e, X86_RCX);
    else if (e->instruction.kind == FLAGS_LOST)
        settle_flags(e);
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
    Block *b = &e->blocks[slot(e, pc)];
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

#endif
