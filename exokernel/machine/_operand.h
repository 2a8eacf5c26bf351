/* Which instructions read, change and write one operand in memory, and where that operand is.
 *
 * Like `decode`, this follows the emulated processor: of several segment prefixes the last counts, whichever it is.
 */
#ifndef EXOKERNEL_OPERAND_H
#define EXOKERNEL_OPERAND_H

#include <string.h>

#include "_decode.h"

/* Indices in a context's words. */
enum { RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, RIP = 16, RFLAGS, FS_BASE, GS_BASE, WORDS };

static uint64_t numbered(const uint64_t *words, unsigned number) {
    static const uint8_t order[8] = {RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI};
    return words[number < 8 ? order[number] : number];
}

static int changes_one_byte_map(uint8_t opcode, unsigned operation) {
    if (opcode < 0x40)
        return (opcode & 6) == 0 && opcode < 0x38;
    switch (opcode) {
    case 0x80: case 0x81: case 0x83:
        return operation != 7;                                        /* cmp */
    case 0xc0: case 0xc1: case 0xd0: case 0xd1: case 0xd2: case 0xd3:
        return 1;
    case 0xf6: case 0xf7:
        return operation == 2 || operation == 3;                      /* not, neg */
    case 0xfe: case 0xff:
        return operation < 2;                                         /* inc, dec */
    default:
        return 0;
    }
}

static int is_bit_string(const Instruction *found) {
    return found->map == 1 && (found->opcode == 0xab || found->opcode == 0xb3 || found->opcode == 0xbb);
}

static int changes_two_byte_map(uint8_t opcode, unsigned operation, unsigned wide) {
    switch (opcode) {
    case 0xa4: case 0xa5: case 0xac: case 0xad:                       /* shld, shrd */
    case 0xab: case 0xb3: case 0xbb:                                  /* bts, btr, btc */
    case 0xb0: case 0xb1: case 0xc0: case 0xc1:                       /* cmpxchg, xadd */
        return 1;
    case 0xba:
        return operation > 4;
    case 0xc7:
        return operation == 1 && !wide;                               /* cmpxchg8b */
    default:
        return 0;
    }
}

static int is_byte_wide(const Instruction *found) {
    return found->map == 0 ? !(found->opcode & 1) : found->opcode == 0xb0 || found->opcode == 0xc0;
}

/* Bytes that the instruction loads from memory and stores there again, if it does so without a lock; else 0. */
static unsigned stored_size(const Instruction *found, const uint8_t *code) {
    unsigned wide = found->rex >> 3 & 1, modrm = code[found->modrm], operation = modrm >> 3 & 7;
    if (!found->modrm || found->vex || found->lock || found->map > 1 || modrm >= 0xc0)
        return 0;
    if (found->map == 0 ? !changes_one_byte_map(found->opcode, operation)
                        : !changes_two_byte_map(found->opcode, operation, wide))
        return 0;
    if (is_byte_wide(found))
        return 1;
    if (wide || (found->map == 1 && found->opcode == 0xc7))
        return 8;
    return found->data16 ? 2 : 4;
}

/* shld and shrd by an immediate byte: Unicorn computes an address relative to rip from the byte, not from behind it. */
static unsigned forgets_immediate(const Instruction *found) {
    return found->map == 1 && (found->opcode == 0xa4 || found->opcode == 0xac);
}

static uint64_t displacement(const uint8_t *p, unsigned size) {
    int32_t value = size == 1 ? (int8_t)p[0] : 0;
    if (size == 4)
        memcpy(&value, p, 4);
    return (uint64_t)(int64_t)value;
}

/* How far from its address operand bts, btr and btc with a bit number in a register find their `size` bytes. */
static uint64_t bit_offset(uint64_t bit, unsigned size) {
    int64_t number = size == 2 ? (int16_t)bit : size == 4 ? (int32_t)bit : (int64_t)bit;
    return (uint64_t)(number >> (size == 2 ? 4 : size == 4 ? 5 : 6)) * size;
}

/* The address that the ModRM byte and what follows it mean, for an instruction of which `stored_size` knows the size. */
static uint64_t operand_address(const Instruction *found, const uint8_t *code, const uint64_t *words, unsigned size) {
    const uint8_t *p = code + found->modrm;
    unsigned mod = p[0] >> 6, base = p[0] & 7, high = found->rex & 1 ? 8 : 0, number = p[0] >> 3 & 7;
    uint64_t address = 0;
    p++;
    if (base == 4) {
        unsigned index = (*p >> 3 & 7) | (found->rex & 2 ? 8 : 0);
        if (index != 4)
            address = numbered(words, index) << (*p >> 6);
        base = *p++ & 7;
        if (mod || base != 5)
            address += numbered(words, base | high);
    } else if (mod || base != 5) {
        address = numbered(words, base | high);
    } else {
        address = words[RIP] + found->length - forgets_immediate(found);
    }
    if (mod == 1)
        address += displacement(p, 1);
    else if (mod == 2 || base == 5)
        address += displacement(p, 4);
    if (is_bit_string(found))
        address += bit_offset(numbered(words, number | (found->rex & 4 ? 8 : 0)), size);
    if (found->address32)
        address = (uint32_t)address;
    return address + (found->segment == 0x64 ? words[FS_BASE] : found->segment == 0x65 ? words[GS_BASE] : 0);
}

#endif
