/* Counts turns between two moments of virtual time, to show how much of a processor it was given: spin BEGIN END.
 *
 * The time is read from the exposed machine page, which costs no call but says only when the program was last given a
 * processor; where that slice may reach one of the two moments the kernel is asked.  Programs that run side by side are
 * thus compared over the same stretch of time, whenever each was loaded.
 */
#include "exo.h"
#include "libos.h"
#include "support.h"

/* Of the loop between two looks at the clock; it takes twice as many cycles. */
enum { TURNS = 512, MARGIN = 1000 };

static uint64_t time_near(uint64_t moment) {
    const uint64_t shown = EXO_MACHINE->clock;
    return shown + EXO_MACHINE->quantum + MARGIN < moment || shown >= moment ? shown : (uint64_t)exo_time();
}

static void turn(void) {
    uint64_t left = TURNS;
    __asm__ volatile("1: dec %0\n\tjnz 1b" : "+r"(left) : : "cc");
}

static uint64_t turns_until(uint64_t moment) {
    uint64_t count = 0;
    for (; time_near(moment) < moment; count++) {
        turn();
    }
    return count;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        stop(2, "spin: give two moments in cycles, the beginning and the end of counting", "");
    }
    const uint64_t begin = number_argument("spin: the first moment is a number", argv[1], 0, UINT64_C(1) << 60);
    const uint64_t end = number_argument("spin: the second moment is a number", argv[2], begin, UINT64_C(1) << 60);
    print_text("turns "); /* now, so that no page is missing later */
    turns_until(begin);
    print_number(turns_until(end));
    print_line("");
    return 0;
}
