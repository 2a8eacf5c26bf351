/* The functions of support.h, over the interface of the library OS and nothing else. */
#include "support.h"

#include "libos.h"

/* Keeps a compiler from recognising the loop around it as memcpy or strlen, and calling the function from itself. */
#define OPAQUE() __asm__ volatile("" ::: "memory")

typedef uint64_t __attribute__((may_alias, aligned(1))) word;

void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    char *target = to;
    const char *source = from;
    for (; size >= sizeof(word); size -= sizeof(word), target += sizeof(word), source += sizeof(word)) {
        *(word *)target = *(const word *)source;
        OPAQUE();
    }
    for (; size > 0; size--) {
        *target++ = *source++;
        OPAQUE();
    }
    return to;
}

void *memmove(void *to, const void *from, size_t size) {
    char *target = to;
    const char *source = from;
    if ((uintptr_t)target - (uintptr_t)source < size) {
        while (size > 0) {
            size--;
            target[size] = source[size];
            OPAQUE();
        }
        return to;
    }
    for (size_t i = 0; i < size; i++) {
        target[i] = source[i];
        OPAQUE();
    }
    return to;
}

void *memset(void *to, int byte, size_t size) {
    char *target = to;
    const uint64_t pattern = (unsigned char)byte * UINT64_C(0x0101010101010101);
    for (; size >= sizeof(word); size -= sizeof(word), target += sizeof(word)) {
        *(word *)target = pattern;
        OPAQUE();
    }
    for (; size > 0; size--) {
        *target++ = (char)byte;
        OPAQUE();
    }
    return to;
}

int memcmp(const void *left, const void *right, size_t size) {
    const unsigned char *a = left, *b = right;
    for (size_t i = 0; i < size; i++) {
        if (a[i] != b[i]) {
            return a[i] < b[i] ? -1 : 1;
        }
        OPAQUE();
    }
    return 0;
}

size_t strlen(const char *text) {
    size_t length = 0;
    while (text[length] != '\0') {
        length++;
        OPAQUE();
    }
    return length;
}

int strcmp(const char *left, const char *right) {
    while (*left != '\0' && *left == *right) {
        left++;
        right++;
        OPAQUE();
    }
    return (int)(unsigned char)*left - (int)(unsigned char)*right;
}

static char waiting[1024];
static size_t waiting_size;

void flush(void) {
    const char *next = waiting;
    while (waiting_size > 0) {
        const long written = os_write(next, waiting_size);
        if (written <= 0) {
            waiting_size = 0;
            return;
        }
        next += written;
        waiting_size -= (size_t)written;
    }
}

void print_character(char character) {
    if (waiting_size == sizeof waiting) {
        flush();
    }
    waiting[waiting_size++] = character;
}

void print_text(const char *text) {
    while (*text != '\0') {
        print_character(*text++);
    }
}

void print_number(uint64_t number) {
    char digits[21];
    char *first = &digits[20];
    *first = '\0';
    do {
        *--first = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    print_text(first);
}

void print_line(const char *text) {
    print_text(text);
    print_character('\n');
}

_Noreturn void stop(int status, const char *sentence, const char *subject) {
    print_text(sentence);
    print_text(subject);
    print_line(".");
    flush();
    os_exit(status);
}

bool parse_number(const char *text, uint64_t *number) {
    uint64_t value = 0;
    if (*text == '\0') {
        return false;
    }
    for (; *text != '\0'; text++) {
        const uint64_t digit = (uint64_t)(unsigned char)*text - '0';
        if (digit > 9 || __builtin_mul_overflow(value, UINT64_C(10), &value) ||
            __builtin_add_overflow(value, digit, &value)) {
            return false;
        }
    }
    *number = value;
    return true;
}

uint64_t number_argument(const char *sentence, const char *text, uint64_t least, uint64_t most) {
    uint64_t number;
    if (parse_number(text, &number) && number >= least && number <= most) {
        return number;
    }
    print_text(sentence);
    print_text(" from ");
    print_number(least);
    print_text(" to ");
    print_number(most);
    stop(2, ", not ", text);
}

uint64_t random_at(uint64_t seed, uint64_t place) {
    uint64_t mixed = seed + (place + 1) * UINT64_C(0x9e3779b97f4a7c15);
    mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94d049bb133111eb);
    return mixed ^ (mixed >> 31);
}

uint64_t random_next(uint64_t *state) {
    const uint64_t number = random_at(*state, 0);
    *state += UINT64_C(0x9e3779b97f4a7c15);
    return number;
}
