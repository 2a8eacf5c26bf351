/* Forks a tree of environments that add up what they inherit: forktree [DEPTH] [FANOUT] [PAGES] [SEED].
 *
 * Every node adds its number among its siblings (the root: 1) to one word of each page, so a node at the end of a path
 * has what the seed put there and the sum of the numbers on the path.  It forks its children, all of which run at the
 * same time, looks whether what it has is still its own, and gives that sum plus the results of its children as its exit
 * status.  The root prints the result.  As a status is a byte on most systems, all is modulo 100, and what is not below
 * 100 is no result.
 */
#include "libos.h"
#include "support.h"

enum { MODULUS = 100, NO_ROOM = 101, WRONG = 102, ENDED = 103, FANOUT_MAXIMUM = 64 };

static struct {
    uint64_t depth, fanout, pages, seed;
    uint64_t *memory;
} tree;

/* The word of a page that is counted in. */
static uint64_t *word_of(uint64_t page) {
    return &tree.memory[page * WORDS_PER_PAGE + random_at(tree.seed, page) % WORDS_PER_PAGE];
}

static bool all_have(uint64_t sum) {
    for (uint64_t page = 0; page < tree.pages; page++) {
        if (*word_of(page) != random_at(~tree.seed, page) + sum) {
            return false;
        }
    }
    return true;
}

/* One node: `inherited` is the sum on the way to it.  Gives its result, or what was wrong with it or below it. */
static int live(uint64_t level, uint64_t number, uint64_t inherited) {
    long children[FANOUT_MAXIMUM];
    uint64_t forked = 0;
    const uint64_t own = inherited + number;
    if (!all_have(inherited)) {
        return WRONG;
    }
    for (uint64_t page = 0; page < tree.pages; page++) {
        *word_of(page) += number;
    }
    while (level < tree.depth && forked < tree.fanout) {
        children[forked] = os_fork();
        if (children[forked] == 0) {
            os_exit(live(level + 1, forked + 1, own));
        }
        if (children[forked] < 0) {
            break;
        }
        forked++;
    }
    int result = (int)(own % MODULUS);
    if (level < tree.depth && forked < tree.fanout) {
        result = NO_ROOM;
    }
    for (uint64_t i = 0; i < forked; i++) {
        const long below = os_wait(children[i]);
        if (result < MODULUS) {
            result = below >= 0 && below < MODULUS ? (int)((result + below) % MODULUS)
                     : below == NO_ROOM || below == WRONG ? (int)below
                                                          : ENDED;
        }
    }
    return all_have(own) ? result : WRONG;
}

int main(int argc, char **argv) {
    static const char *const sentences[] = {
        "forktree: the first argument, the depth, is a number",
        "forktree: the second argument, the fan-out, is a number",
        "forktree: the third argument, pages, is a number",
        "forktree: the fourth argument, the seed, is a number",
    };
    const uint64_t least[] = {0, 1, 1, 0}, most[] = {1000, FANOUT_MAXIMUM, 1u << 24, UINT64_MAX};
    uint64_t numbers[] = {3, 2, 8, 1};
    if (argc > 5) {
        stop(2, "forktree: after depth, fan-out, pages and seed there is no place for ", argv[5]);
    }
    for (int i = 1; i < argc; i++) {
        numbers[i - 1] = number_argument(sentences[i - 1], argv[i], least[i - 1], most[i - 1]);
    }
    tree.depth = numbers[0];
    tree.fanout = numbers[1];
    tree.pages = numbers[2];
    tree.seed = numbers[3];
    tree.memory = os_region(tree.pages * PAGE_SIZE);
    if (tree.memory == NULL) {
        stop(1, "forktree: there is no room for this many pages", "");
    }
    uint64_t nodes = 1, level = 1;
    for (uint64_t i = 0; i < tree.depth; i++) {
        level *= tree.fanout;
        nodes += level;
    }
    for (uint64_t page = 0; page < tree.pages; page++) {
        *word_of(page) = random_at(~tree.seed, page);
    }
    const int result = live(0, 1, 0);
    if (result == NO_ROOM) {
        stop(1, "forktree: there is no room for so many environments; take a smaller tree, or more memory and disk", "");
    }
    if (result == ENDED) {
        stop(1, "forktree: a node was ended before it had a result", "");
    }
    if (result == WRONG) {
        stop(1, "forktree: a node did not have what it inherited and added", "");
    }
    print_text("a tree of depth ");
    print_number(tree.depth);
    print_text(" and fan-out ");
    print_number(tree.fanout);
    print_text(": result ");
    print_number((uint64_t)result);
    print_text(" modulo 100, from ");
    print_number(nodes);
    print_line(nodes == 1 ? " environment" : " environments");
    return 0;
}
