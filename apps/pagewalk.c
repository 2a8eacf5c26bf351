/* Touches pages in a chosen pattern: pagewalk --pattern NAME --pages N --steps M [--write PERCENT] [--seed S].
 *
 * The reference strings of the paging literature as a program.  Each step touches one 64-bit word of one page:
 *
 *   sequential   the memory read like an array, a cache line a step: 64 steps on a page, then the next
 *   loop         a page a step, round and round: a little larger than memory, it defeats LRU and FIFO
 *   zipf         page k is 1/k as likely as the first: a few hot pages and a long tail
 *   random       every page equally likely: no policy is better than another
 *   phased       eight phases, each at random within a quarter of the pages: working sets that change
 *
 * The checksum covers the pages in order and every word read, so a page that came back wrong from the disk changes it.
 */
#include "libos.h"
#include "support.h"

enum { STEPS_ON_A_PAGE = 64, PHASES = 8, PARTS = 4 };

struct walk {
    const char *pattern;
    uint64_t pages, steps, write, seed;
    uint64_t state;
    const uint64_t *shares; /* for zipf: the sum of the weights of the pages up to and including each */
};

struct touch {
    uint64_t page, word;
};

/* One option, by its name; the program stops if there is no such option. */
static void set_option(struct walk *walk, const char *name, const char *value) {
    if (strcmp(name, "--pattern") == 0) {
        walk->pattern = value;
    } else if (strcmp(name, "--pages") == 0) {
        walk->pages = number_argument("pagewalk: --pages is a number", value, 1, UINT64_C(1) << 32);
    } else if (strcmp(name, "--steps") == 0) {
        walk->steps = number_argument("pagewalk: --steps is a number", value, 1, UINT64_MAX);
    } else if (strcmp(name, "--write") == 0) {
        walk->write = number_argument("pagewalk: --write is a number", value, 0, 100);
    } else if (strcmp(name, "--seed") == 0) {
        walk->seed = number_argument("pagewalk: --seed is a number", value, 0, UINT64_MAX);
    } else {
        stop(2, "pagewalk: the options are --pattern, --pages, --steps, --write and --seed, not ", name);
    }
}

static void *region(uint64_t size) {
    void *memory = os_region(size);
    if (memory == NULL) {
        stop(1, "pagewalk: there is no room for this many pages", "");
    }
    return memory;
}

static const uint64_t *zipf_shares(uint64_t pages) {
    uint64_t *shares = region(pages * sizeof *shares), sum = 0;
    for (uint64_t page = 0; page < pages; page++) {
        sum += (UINT64_C(1) << 32) / (page + 1);
        shares[page] = sum;
    }
    return shares;
}

static struct touch sequential(struct walk *walk, uint64_t step) {
    const uint64_t word = step % STEPS_ON_A_PAGE * (WORDS_PER_PAGE / STEPS_ON_A_PAGE);
    return (struct touch){step / STEPS_ON_A_PAGE % walk->pages, word};
}

static struct touch at_random_word(struct walk *walk, uint64_t page) {
    return (struct touch){page, random_next(&walk->state) % WORDS_PER_PAGE};
}

static struct touch loop(struct walk *walk, uint64_t step) {
    return at_random_word(walk, step % walk->pages);
}

static struct touch zipf(struct walk *walk, uint64_t step) {
    (void)step;
    const uint64_t share = random_next(&walk->state) % walk->shares[walk->pages - 1];
    uint64_t low = 0, high = walk->pages - 1;
    while (low < high) {
        const uint64_t middle = (low + high) / 2;
        if (walk->shares[middle] > share) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return at_random_word(walk, low);
}

static struct touch uniform(struct walk *walk, uint64_t step) {
    (void)step;
    return at_random_word(walk, random_next(&walk->state) % walk->pages);
}

static struct touch phased(struct walk *walk, uint64_t step) {
    const uint64_t length = walk->steps / PHASES + 1, size = walk->pages / PARTS + 1;
    const uint64_t first = random_at(~walk->seed, step / length) % walk->pages;
    return at_random_word(walk, (first + random_next(&walk->state) % size) % walk->pages);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        struct touch (*next)(struct walk *, uint64_t);
    } patterns[] = {
        {"sequential", sequential}, {"loop", loop}, {"zipf", zipf}, {"random", uniform}, {"phased", phased},
    };
    struct walk walk = {.pattern = "", .write = 25, .seed = 1};
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) {
            stop(2, "pagewalk: there is no value after ", argv[i]);
        }
        set_option(&walk, argv[i], argv[i + 1]);
    }
    struct touch (*next)(struct walk *, uint64_t) = NULL;
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++) {
        if (strcmp(walk.pattern, patterns[i].name) == 0) {
            next = patterns[i].next;
        }
    }
    if (next == NULL) {
        stop(2, "pagewalk: --pattern is sequential, loop, zipf, random or phased, not ",
             *walk.pattern == '\0' ? "nothing" : walk.pattern);
    }
    if (walk.pages == 0 || walk.steps == 0) {
        stop(2, "pagewalk: say how many with --pages and --steps", "");
    }

    walk.state = walk.seed;
    walk.shares = next == zipf ? zipf_shares(walk.pages) : NULL;
    uint64_t *memory = region(walk.pages * PAGE_SIZE), checksum = 0, writes = 0;
    for (uint64_t step = 0; step < walk.steps; step++) {
        const struct touch touch = next(&walk, step);
        uint64_t *word = &memory[touch.page * WORDS_PER_PAGE + touch.word];
        checksum = checksum * CHECKSUM_FACTOR + (*word ^ touch.page);
        if (random_next(&walk.state) % 100 < walk.write) {
            *word += step + 1;
            writes++;
        }
    }

    print_text(walk.pattern);
    print_text(": ");
    print_number(walk.steps);
    print_text(" steps over ");
    print_number(walk.pages);
    print_text(" pages, ");
    print_number(writes);
    print_text(" writes, checksum ");
    print_number(checksum);
    print_line("");
    return 0;
}
