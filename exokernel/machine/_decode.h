/* Lengths and kinds of 64-bit x86 instructions, as far as the run loop has to know them.
 *
 * `decode` looks at the bytes of one instruction and tells how long it is and whether the run loop must treat it
 * specially. It follows the emulated processor where that differs from the manuals: a REX prefix keeps its meaning when
 * a legacy prefix follows it, a 66 prefix shortens the displacement of near jumps, and a VEX prefix selects the same
 * opcode maps as 0F does. An encoding that the processor refuses may get any length, because nothing after it in its
 * block is executed. The run loop compares the sum of the lengths with the size of the translated block, and executes
 * a block that disagrees one instruction at a time; so a wrong length costs speed but never a cycle.
 */
#ifndef EXOKERNEL_DECODE_H
#define EXOKERNEL_DECODE_H

#include <stdint.h>

enum kind {
    PLAIN,
    PRIVILEGED,  /* traps before it is executed: privileged, or a source of chance, or a segment register load */
    REFUSED,     /* far jump, call and return, and iret with a 16- or 32-bit frame (a way into virtual-8086 mode) */
    INVALID,     /* a VEX encoding that Unicorn would execute as the SSE instruction with the same opcode */
    DEBUG_TRAP,  /* F1, one-byte int 1 */
    SOFTWARE_INTERRUPT,
    PUSHES_FLAGS,
    LOADS_FLAGS,
    FLAGS_LOST,  /* setcc, rcl and rcr on memory: Unicorn loses the flags if the store faults */
    REPEATED     /* a string instruction with a rep prefix */
};

typedef struct {
    uint8_t length;     /* 0 if the bytes end before the instruction does, or if it is longer than 15 bytes */
    uint8_t kind;
    uint8_t opcode;     /* of the one-byte map; meaningful for REPEATED */
    uint8_t rep;        /* F2 or F3, the prefix that counts */
    uint8_t address32;  /* counts in ecx instead of rcx, and addresses end at 4 GiB */
    uint8_t rex, lock, data16, segment;  /* prefixes: the last of their kind, or 0 */
    uint8_t map, vex;   /* opcode map: 0 one byte, 1 0F, 2 0F38, 3 0F3A */
    uint8_t modrm;      /* where the ModRM byte is, or 0 */
} Instruction;

/* Operands after the opcode. Z is 2 bytes with a 66 prefix and 4 otherwise. */
enum { N = 0, B = 1, W = 2, Z = 3, V = 4, O = 5, E = 6, M = 16, MB = M | B, MZ = M | Z };

static const uint8_t one_byte_map[256] = {
    M, M, M, M, B, Z, N, N, M, M, M, M, B, Z, N, N,
    M, M, M, M, B, Z, N, N, M, M, M, M, B, Z, N, N,
    M, M, M, M, B, Z, N, N, M, M, M, M, B, Z, N, N,
    M, M, M, M, B, Z, N, N, M, M, M, M, B, Z, N, N,
    N, N, N, N, N, N, N, N, N, N, N, N, N, N, N, N,
    N, N, N, N, N, N, N, N, N, N, N, N, N, N, N, N,
    N, N, M, M, N, N, N, N, Z, MZ, B, MB, N, N, N, N,
    B, B, B, B, B, B, B, B, B, B, B, B, B, B, B, B,
    MB, MZ, MB, MB, M, M, M, M, M, M, M, M, M, M, M, M,
    N, N, N, N, N, N, N, N, N, N, N, N, N, N, N, N,
    O, O, O, O, N, N, N, N, B, Z, N, N, N, N, N, N,
    B, B, B, B, B, B, B, B, V, V, V, V, V, V, V, V,
    MB, MB, W, N, M, M, MB, MZ, E, N, W, N, N, B, N, N,
    M, M, M, M, N, N, N, N, M, M, M, M, M, M, M, M,
    B, B, B, B, B, B, B, B, Z, Z, N, B, N, N, N, N,
    N, N, N, N, N, N, M, M, N, N, N, N, N, N, M, M,
};

static const uint8_t two_byte_map[256] = {
    M, M, M, M, N, N, N, N, N, N, N, N, N, M, N, MB,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, N, N, N, N, M, M, M, M, M, M, M, M,
    N, N, N, N, N, N, N, N, N, N, N, N, N, N, N, N,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    MB, MB, MB, MB, M, M, M, N, M, M, M, M, M, M, M, M,
    Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    N, N, N, M, MB, M, N, N, N, N, N, M, MB, M, M, M,
    M, M, M, M, M, M, M, M, M, M, MB, M, M, M, M, M,
    M, M, MB, M, MB, MB, MB, M, N, N, N, N, N, N, N, N,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
};

/* Bytes of a ModRM operand that starts at `p`: ModRM itself, SIB and displacement. */
static unsigned modrm_length(const uint8_t *p, unsigned left) {
    unsigned mod = p[0] >> 6, rm = p[0] & 7, length = 1;
    if (mod == 3)
        return 1;
    if (rm == 4) {
        length = 2;
        if (left > 1)
            rm = (p[1] & 7) == 5 ? 5 : 4;
    }
    if (mod == 1)
        return length + 1;
    return mod == 2 || rm == 5 ? length + 4 : length;
}

static uint8_t one_byte_kind(uint8_t opcode, uint8_t modrm, int rep, int wide) {
    switch (opcode) {
    case 0x6c: case 0x6d: case 0x6e: case 0x6f:                       /* ins, outs */
    case 0xe4: case 0xe5: case 0xe6: case 0xe7: case 0xec: case 0xed: case 0xee: case 0xef:
    case 0xf4: case 0xfa: case 0xfb:                                  /* hlt, cli, sti */
    case 0x8e:                                                        /* mov to a segment register */
        return PRIVILEGED;
    case 0xa4: case 0xa5: case 0xa6: case 0xa7: case 0xaa: case 0xab: case 0xac: case 0xad: case 0xae: case 0xaf:
        return rep ? REPEATED : PLAIN;
    case 0x9c:
        return PUSHES_FLAGS;
    case 0x9d:
        return LOADS_FLAGS;
    case 0xcf:
        return wide ? LOADS_FLAGS : REFUSED;
    case 0xca: case 0xcb:
        return REFUSED;
    case 0xff:
        return (modrm & 0x38) == 0x18 || (modrm & 0x38) == 0x28 ? REFUSED : PLAIN;
    case 0xc0: case 0xc1: case 0xd0: case 0xd1: case 0xd2: case 0xd3:
        return modrm < 0xc0 && (modrm & 0x30) == 0x10 ? FLAGS_LOST : PLAIN;
    case 0xcc: case 0xcd:
        return SOFTWARE_INTERRUPT;
    case 0xf1:
        return DEBUG_TRAP;
    default:
        return PLAIN;
    }
}

/* BMI is the only VEX extension there is. */
static uint8_t vex_kind(unsigned map, uint8_t opcode) {
    return (map == 2 && opcode >= 0xf2 && opcode <= 0xf7) || (map == 3 && opcode == 0xf0) ? PLAIN : INVALID;
}

static uint8_t two_byte_kind(uint8_t opcode, uint8_t modrm) {
    unsigned operation = modrm >> 3 & 7;
    if ((opcode & 0xf0) == 0x90)
        return modrm < 0xc0 ? FLAGS_LOST : PLAIN;
    switch (opcode) {
    case 0x00:                                                        /* sldt, str, lldt, ltr */
        return operation < 4 ? PRIVILEGED : PLAIN;
    case 0x01:                                                        /* all but xgetbv, xend, xtest, rd/wrpkru */
        return modrm == 0xd0 || modrm == 0xd5 || modrm == 0xd6 || modrm == 0xee || modrm == 0xef ? PLAIN : PRIVILEGED;
    case 0x06: case 0x07: case 0x08: case 0x09:                       /* clts, sysret, invd, wbinvd */
    case 0x20: case 0x21: case 0x22: case 0x23:                       /* control and debug registers */
    case 0x30: case 0x31: case 0x32: case 0x33: case 0x34: case 0x35: /* msr, tsc, pmc, sysenter, sysexit */
    case 0xa1: case 0xa9: case 0xb2: case 0xb4: case 0xb5:            /* pop fs, pop gs, lss, lfs, lgs */
    case 0xa2:                                                        /* cpuid */
        return PRIVILEGED;
    case 0xc7:                                                        /* rdrand, rdseed, rdpid, vmptrld */
        return operation >= 6 ? PRIVILEGED : PLAIN;
    default:
        return PLAIN;
    }
}

/* The instruction in the first of `left` bytes at `p`. */
static Instruction decode(const uint8_t *p, unsigned left) {
    Instruction found = {.kind = PLAIN};
    unsigned at = 0, form, data16 = 0, wide = 0, map = 0, vex = 0, length;
    uint8_t opcode, modrm;
    if (left > 15)
        left = 15;
    for (;; at++) {
        if (at >= left)
            return found;
        opcode = p[at];
        if ((opcode & 0xf0) == 0x40)
            wide = (found.rex = opcode) >> 3 & 1;
        else if (opcode == 0x66)
            data16 = found.data16 = 1;
        else if (opcode == 0x67)
            found.address32 = 1;
        else if (opcode == 0xf2 || opcode == 0xf3)
            found.rep = opcode;
        else if (opcode == 0xf0)
            found.lock = 1;
        else if (opcode == 0x2e || opcode == 0x36 || opcode == 0x3e || opcode == 0x26 || opcode == 0x64 || opcode == 0x65)
            found.segment = opcode;
        else
            break;
    }
    at++;
    if (opcode == 0x0f) {
        if (at >= left)
            return found;
        opcode = p[at++];
        map = 1;
        if (opcode == 0x38 || opcode == 0x3a) {
            map = opcode == 0x38 ? 2 : 3;
            if (at++ >= left)
                return found;
        }
    } else if (opcode == 0xc5 || opcode == 0xc4) {
        unsigned three = opcode == 0xc4;
        if (at + 1 + three >= left)
            return found;
        map = three ? p[at] & 0x1f : 1;
        data16 = (p[at + three] & 3) == 1;
        wide = three ? p[at + 1] >> 7 : 0;
        opcode = p[at + 1 + three];
        at += 2 + three;
        vex = 1;
    }
    form = map == 0 ? one_byte_map[opcode] : map == 1 ? two_byte_map[opcode] : map == 2 ? M : MB;
    modrm = at < left ? p[at] : 0;
    if (map == 0) {
        found.kind = one_byte_kind(opcode, modrm, found.rep, wide);
        if ((opcode == 0xf6 || opcode == 0xf7) && (modrm & 0x38) < 0x10)
            form = opcode == 0xf6 ? MB : MZ;
    } else if (map == 1) {
        found.kind = two_byte_kind(opcode, modrm);
        if (opcode == 0x78 && (data16 || found.rep == 0xf2))
            form = M | W;
    }
    if (vex)
        found.kind = vex_kind(map, opcode);
    found.opcode = opcode;
    found.map = (uint8_t)map;
    found.vex = (uint8_t)vex;
    found.modrm = form & M ? (uint8_t)at : 0;
    length = at;
    if (form & M)
        length += at < left ? modrm_length(p + at, left - at) : 1;
    switch (form & 15) {
    case B: length += 1; break;
    case W: length += 2; break;
    case Z: length += data16 && !wide ? 2 : 4; break;
    case V: length += wide ? 8 : data16 ? 2 : 4; break;
    case O: length += found.address32 ? 4 : 8; break;
    case E: length += 3; break;
    }
    found.length = length <= left ? (uint8_t)length : 0;
    return found;
}

#endif
