/* Forks a family that shares its pages until they are written: forkdemo [PAGES] [CHILDREN] [SEED].
 *
 * The first environment fills pages and forks a child, which forks the next, so that all of them hold the same frames
 * at once.  Each writes the even pages before it forks and the odd ones after, while its child runs, and checks when
 * the child has ended that its own copies are as it left them.  As everybody prints after waiting, the lines come
 * youngest first, in whatever order the environments ran.
 */
#include "libos.h"
#include "support.h"

struct family {
    uint64_t *words;
    uint64_t pages, children, seed;
};

static uint64_t checksum_of(const struct family *family) {
    uint64_t checksum = 0;
    for (uint64_t i = 0; i < family->pages * WORDS_PER_PAGE; i++) {
        checksum = checksum * CHECKSUM_FACTOR + family->words[i];
    }
    return checksum;
}

/* One word of every second page: enough that the page must be copied, too little to hide a page copied wrongly. */
static void write_pages(const struct family *family, uint64_t first, uint64_t member) {
    for (uint64_t page = first; page < family->pages; page += 2) {
        const uint64_t chance = random_at(~family->seed, member * family->pages + page);
        family->words[page * WORDS_PER_PAGE + chance % WORDS_PER_PAGE] = chance;
    }
}

static void live(const struct family *family, uint64_t member) {
    const uint64_t inherited = checksum_of(family);
    write_pages(family, 0, member);
    long child = 0;
    if (member < family->children) {
        child = os_fork();
        if (child < 0) {
            stop(1, "forkdemo: there is no room for another environment", "");
        }
        if (child == 0) {
            live(family, member + 1);
            flush();
            os_exit(0);
        }
    }
    write_pages(family, 1, member);
    const uint64_t own = checksum_of(family);
    if (child != 0 && os_wait(child) != 0) {
        stop(1, "forkdemo: a child did not end well", "");
    }
    if (checksum_of(family) != own) {
        stop(1, "forkdemo: a child's writes came through to its parent", "");
    }
    print_text(member == 0 ? "parent" : "child ");
    if (member != 0) {
        print_number(member);
    }
    print_text(": inherited ");
    print_number(inherited);
    print_text(", own ");
    print_number(own);
    print_line("");
}

int main(int argc, char **argv) {
    struct family family = {.pages = 16, .children = 3, .seed = 1};
    if (argc > 4) {
        stop(2, "forkdemo: after pages, children and seed there is no place for ", argv[4]);
    }
    if (argc > 1) {
        family.pages = number_argument("forkdemo: the first argument, pages, is a number", argv[1], 1, 1u << 24);
    }
    if (argc > 2) {
        family.children = number_argument("forkdemo: the second argument, children, is a number", argv[2], 0, 1000);
    }
    if (argc > 3) {
        family.seed = number_argument("forkdemo: the third argument, the seed, is a number", argv[3], 0, UINT64_MAX);
    }
    family.words = os_region(family.pages * PAGE_SIZE);
    if (family.words == NULL) {
        stop(1, "forkdemo: there is no room for this many pages", "");
    }
    for (uint64_t i = 0; i < family.pages * WORDS_PER_PAGE; i++) {
        family.words[i] = random_at(family.seed, i);
    }
    live(&family, 0);
    return 0;
}
