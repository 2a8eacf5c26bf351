/* A plain read-modify-write instruction is a load and, later, a store; only a locked one is both at once.
 *
 * Engines take turns over one memory. Where the turn of one ends in front of such an instruction, its load is made:
 * `load_early` remembers the bytes. When the same context goes on there, `store_late` puts them back right before the
 * instruction, which then computes with what it loaded and overwrites what others stored in between. Rules:
 *
 *  - Only the very next run of that engine may finish the instruction. Another context in between means an interrupt,
 *    and interrupts come between instructions: on one processor every instruction is atomic.
 *  - If rip, the root, the code or the place of the operand is not what it was, the instruction begins anew.
 *  - Bytes are put back only where the instruction is about to store; one that would fault changes nothing.
 *  - An instruction counts as locked, that is never split, if it has an F0 prefix or is xchg or cmpxchg16b, or if its
 *    operand lies in two pages.
 */
#ifndef EXOKERNEL_SPLIT_H
#define EXOKERNEL_SPLIT_H

#include "_state.h"

#define USER_CANONICAL ((uint64_t)1 << 47)

static uint8_t *user_byte(Engine *e, uint64_t va, uint64_t needed, uint64_t refused) {
    return va < USER_CANONICAL ? reach(e, va, ENTRY_PRESENT | ENTRY_USER | needed, refused) : NULL;
}

static unsigned user_code(Engine *e, uint64_t va, uint8_t *code) {
    unsigned length = 0;
    for (uint8_t *from; length < 15 && (from = user_byte(e, va + length, 0, ENTRY_NX)); length++)
        code[length] = *from;
    return length;
}

/* Finds the place of the operand of the plain read-modify-write instruction at rip; 0 if there is none. */
static int find_half(Engine *e, const uint64_t *words, Half *half) {
    Instruction found;
    memset(half, 0, sizeof *half);
    half->root = e->root;
    half->rip = words[RIP];
    found = decode(half->code, user_code(e, half->rip, half->code));
    if (!found.length || !(half->size = stored_size(&found, half->code)))
        return 0;
    memset(half->code + found.length, 0, sizeof half->code - found.length);
    half->va = operand_address(&found, half->code, words, half->size);
    if ((half->va & (PAGE - 1)) + half->size > PAGE)
        return 0;
    half->at = user_byte(e, half->va, ENTRY_WRITABLE, 0);
    return half->at != NULL;
}

static void load_early(Engine *e, Context *c) {
    if (!find_half(e, c->words, &c->half))
        return;
    memcpy(c->half.loaded, c->half.at, c->half.size);
    c->half.engine = e->number;
    c->half.run = e->runs + 1;
}

static void store_late(Engine *e, Context *c) {
    Half old = c->half, now;
    c->half.engine = 0;
    if (old.engine == e->number && old.run == e->runs && find_half(e, c->words, &now) && now.root == old.root
        && now.rip == old.rip && now.at == old.at && now.va == old.va && !memcmp(now.code, old.code, sizeof now.code))
        memcpy(old.at, old.loaded, old.size);
}

#endif
