/* Times page protection as programs use it: appelli [PAGES] [ROUNDS] [SEED] [--no-access] [--counts].
 *
 * The operations are those of Appel and Li, Virtual Memory Primitives for User Programs (ASPLOS 1991), with the names
 * that the exokernel papers report them under; each time is in cycles, for one page or one access:
 *
 *   dirty     ask whether a random page was written
 *   trap      write to a random protected page: from the instruction to the handler, and back to the instruction
 *   prot1     protect one random page
 *   prot100   protect 100 pages together
 *   unprot    give the 100 back together
 *   appel1    write to a random protected page, whose handler protects another and gives this one back
 *   appel2    protect 100 pages together and write to each in random order, the handler giving back each
 *
 * A protected page may be read, or with --no-access not even that.  --counts leaves the times out: what remains is the
 * same on every library OS.  Each page counts its writes, and in the end the counts must be right.
 */
#include "libos.h"
#include "support.h"

enum { RUN = 100, NOBODY = -1 };

static struct {
    uint64_t pages, rounds, state, clock;
    int rights, counts_only;
    uint64_t *memory;
    uint64_t *written; /* how often each page should have been written */
} set;

static struct {
    uint64_t traps, began, left;
    long other; /* a page to protect in the handler, or NOBODY */
} trap;

static uint64_t *page_at(uint64_t page) {
    return &set.memory[page * WORDS_PER_PAGE];
}

static uint64_t chance(uint64_t below) {
    return random_next(&set.state) % below;
}

static void protect(uint64_t page, uint64_t count, int rights) {
    if (os_protect(page_at(page), count * PAGE_SIZE, rights) != 0) {
        stop(1, "appelli: the library OS does not protect a page", "");
    }
}

static int on_fault(void *address, int write) {
    trap.began = os_time();
    const uint64_t page = ((uintptr_t)address - (uintptr_t)set.memory) / PAGE_SIZE;
    if ((!write && set.rights == OS_READ) || page >= set.pages) {
        return 0;
    }
    trap.traps++;
    if (trap.other != NOBODY) {
        protect((uint64_t)trap.other, 1, set.rights);
        trap.other = (long)page;
    }
    protect(page, 1, OS_READ_WRITE);
    trap.left = os_time();
    return 1;
}

static void touch(uint64_t page) {
    ++*(volatile uint64_t *)page_at(page);
    set.written[page]++;
}

/* The cycles from `begin` to now, without those of reading the clock. */
static uint64_t since(uint64_t begin) {
    return os_time() - begin - set.clock;
}

static uint64_t time_dirty(void) {
    uint64_t known = 0, begin = os_time();
    for (uint64_t round = 0; round < set.rounds; round++) {
        known += os_dirty(page_at(chance(set.pages))) >= 0;
    }
    const uint64_t cycles = since(begin);
    if (known != set.rounds) {
        stop(1, "appelli: the library OS does not know a page", "");
    }
    return cycles;
}

static uint64_t time_trap(void) {
    uint64_t cycles = 0;
    for (uint64_t round = 0; round < set.rounds; round++) {
        const uint64_t page = chance(set.pages);
        protect(page, 1, set.rights);
        const uint64_t begin = os_time();
        touch(page);
        const uint64_t end = os_time();
        cycles += trap.began - begin + (end - trap.left) - 2 * set.clock;
    }
    return cycles;
}

static uint64_t time_prot1(void) {
    uint64_t cycles = 0;
    for (uint64_t round = 0; round < set.rounds; round++) {
        const uint64_t page = chance(set.pages), begin = os_time();
        protect(page, 1, set.rights);
        cycles += since(begin);
        touch(page);
    }
    return cycles;
}

static uint64_t time_run(int rights) {
    uint64_t cycles = 0;
    for (uint64_t round = 0; round < set.rounds; round += RUN) {
        const uint64_t first = chance(set.pages - RUN + 1);
        protect(first, RUN, rights == OS_READ_WRITE ? set.rights : OS_READ_WRITE);
        const uint64_t begin = os_time();
        protect(first, RUN, rights);
        cycles += since(begin);
        protect(first, RUN, OS_READ_WRITE);
        touch(first + chance(RUN));
    }
    return cycles;
}

static uint64_t time_prot100(void) {
    return time_run(set.rights);
}

static uint64_t time_unprot(void) {
    return time_run(OS_READ_WRITE);
}

static uint64_t time_appel1(void) {
    uint64_t cycles = 0;
    protect(0, set.pages, set.rights);
    trap.other = (long)chance(set.pages);
    protect((uint64_t)trap.other, 1, OS_READ_WRITE);
    for (uint64_t round = 0; round < set.rounds; round++) {
        const uint64_t page = ((uint64_t)trap.other + 1 + chance(set.pages - 1)) % set.pages, begin = os_time();
        touch(page);
        cycles += since(begin);
    }
    trap.other = NOBODY;
    protect(0, set.pages, OS_READ_WRITE);
    return cycles;
}

static uint64_t time_appel2(void) {
    uint64_t cycles = 0;
    for (uint64_t round = 0; round < set.rounds; round += RUN) {
        const uint64_t first = chance(set.pages - RUN + 1);
        uint64_t order[RUN];
        for (uint64_t i = 0; i < RUN; i++) {
            const uint64_t place = chance(i + 1);
            order[i] = order[place];
            order[place] = first + i;
        }
        const uint64_t begin = os_time();
        protect(first, RUN, set.rights);
        for (uint64_t i = 0; i < RUN; i++) {
            touch(order[i]);
        }
        cycles += since(begin);
    }
    return cycles;
}

static void print_column(const char *text, size_t width) {
    for (size_t length = strlen(text); length < width; length++) {
        print_character(' ');
    }
    print_text(text);
}

static void print_number_column(uint64_t number, size_t width) {
    char digits[21];
    char *first = &digits[20];
    *first = '\0';
    do {
        *--first = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    print_column(first, width);
}

static void measure(const char *name, uint64_t (*operation)(void), uint64_t operations) {
    trap.traps = 0;
    const uint64_t cycles = operation();
    print_text(name);
    if (set.counts_only) {
        print_column("-", 20 - strlen(name));
    } else {
        print_number_column(cycles / operations, 20 - strlen(name));
    }
    print_number_column(operations, 12);
    print_number_column(trap.traps, 8);
    print_line("");
}

static void read_arguments(int argc, char **argv) {
    static const char *const names[] = {"appelli: pages is a number", "appelli: rounds is a number",
                                        "appelli: the seed is a number"};
    const uint64_t least[] = {RUN, 1, 0}, most[] = {1u << 20, 1u << 30, UINT64_MAX};
    uint64_t numbers[] = {200, 1000, 1};
    size_t given = 0;
    set.rights = OS_READ;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--counts") == 0) {
            set.counts_only = 1;
        } else if (strcmp(argv[i], "--no-access") == 0) {
            set.rights = OS_NO_ACCESS;
        } else if (given < 3) {
            numbers[given] = number_argument(names[given], argv[i], least[given], most[given]);
            given++;
        } else {
            stop(2, "appelli: after pages, rounds and seed there is no place for ", argv[i]);
        }
    }
    set.pages = numbers[0];
    set.rounds = numbers[1];
    set.state = numbers[2];
}

int main(int argc, char **argv) {
    read_arguments(argc, argv);
    set.memory = os_region(set.pages * PAGE_SIZE);
    set.written = os_region(set.pages * sizeof *set.written);
    if (set.memory == NULL || set.written == NULL) {
        stop(1, "appelli: there is no room for this many pages", "");
    }
    for (uint64_t page = 0; page < set.pages; page++) {
        touch(page);
    }
    trap.other = NOBODY;
    os_on_fault(on_fault);
    const uint64_t begin = os_time();
    set.clock = os_time() - begin;

    const uint64_t runs = (set.rounds + RUN - 1) / RUN * RUN;
    print_line(set.counts_only ? "operation           -  operations   traps" : "operation      cycles  operations   traps");
    measure("dirty", time_dirty, set.rounds);
    measure("trap", time_trap, set.rounds);
    measure("prot1", time_prot1, set.rounds);
    measure("prot100", time_prot100, runs);
    measure("unprot", time_unprot, runs);
    measure("appel1", time_appel1, set.rounds);
    measure("appel2", time_appel2, runs);

    uint64_t checksum = 0;
    for (uint64_t page = 0; page < set.pages; page++) {
        if (*page_at(page) != set.written[page]) {
            stop(1, "appelli: a page does not have what was written to it", "");
        }
        checksum = checksum * CHECKSUM_FACTOR + *page_at(page);
    }
    print_text("every page has what was written to it, checksum ");
    print_number(checksum);
    print_line("");
    return 0;
}
