/* What every C program here needs beside its library OS: the functions compilers call, printing, arguments, chance.
 *
 * Printing is buffered.  The buffer is written when it is full, when main returns, and by flush(), which a program
 * calls before os_exit() and before os_fork() (else both environments would print what was waiting).
 */
#ifndef SUPPORT_H
#define SUPPORT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PAGE_SIZE = 4096, WORDS_PER_PAGE = PAGE_SIZE / 8 };

/* The multiplier of every checksum: sum = sum * CHECKSUM_FACTOR + value, modulo 2 to the 64. */
#define CHECKSUM_FACTOR UINT64_C(6364136223846793005)

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *left, const void *right, size_t size);
size_t strlen(const char *text);
int strcmp(const char *left, const char *right);

void print_character(char character);
void print_text(const char *text);
void print_number(uint64_t number);
void print_line(const char *text);
void flush(void);

/* Print the sentence, the subject and a full stop, and end the program: status 2 for wrong arguments, else 1. */
_Noreturn void stop(int status, const char *sentence, const char *subject);

/* A decimal number without sign that fits 64 bits; false, and nothing stored, if the text is anything else. */
bool parse_number(const char *text, uint64_t *number);

/* The same, between least and most; otherwise the program stops: the sentence, the bounds, what was given; status 2. */
uint64_t number_argument(const char *sentence, const char *text, uint64_t least, uint64_t most);

/* Splitmix64: the number at a place of the sequence a seed begins, and the walk along it. */
uint64_t random_at(uint64_t seed, uint64_t place);
uint64_t random_next(uint64_t *state);

#endif
