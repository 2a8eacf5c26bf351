/* The console: the application's text as it is, and the library's own sentences put together from pieces.
 *
 * A sentence is written when its end of line comes, so that it is not torn apart by what others write.
 */
#include "library.h"

static char line[160];
static uint32_t used;

static void say_character(char character) {
    line[used++] = character;
    if (character == '\n' || used == sizeof line) {
        exo_console_write(line, used);
        used = 0;
    }
}

void say(const char *text) {
    while (*text)
        say_character(*text++);
}

static void say_digits(uint64_t value, uint64_t base) {
    if (value >= base)
        say_digits(value / base, base);
    say_character("0123456789abcdef"[value % base]);
}

void say_hex(uint64_t value) {
    say("0x");
    say_digits(value, 16);
}

void say_number(uint64_t value) {
    say_digits(value, 10);
}

_Noreturn void end(int status) {
    for (;;)
        exo_exit((uint64_t)status);
}

_Noreturn void os_exit(int status) {
    end(status);
}

long os_write(const void *text, size_t size) {
    return exo_console_write(text, size);
}

uint64_t os_time(void) {
    return (uint64_t)exo_time();
}

void os_yield(void) {
    if (threading)
        honour();
    else
        exo_yield(0);
}
