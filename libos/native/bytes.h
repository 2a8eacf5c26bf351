/* Moving bytes, where the program's memory may page-fault in the middle. */
#ifndef BYTES_H
#define BYTES_H

#include <stddef.h>
#include <stdint.h>

static inline void copy(void *to, const void *from, size_t size) {
    uint64_t words = size / 8, rest = size % 8;
    __asm__ volatile("rep movsq\n\tmov %3, %%rcx\n\trep movsb"
                     : "+D"(to), "+S"(from), "+c"(words)
                     : "r"(rest)
                     : "memory");
}

static inline size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

#endif
