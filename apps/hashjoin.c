/* Joins two generated relations by hashing, as a database does: hashjoin R S [SEED].
 *
 * A hash table is built over R tuples and probed with S.  The program knows what no kernel can know of its pages, and
 * says so: the probe input can be generated again, so its pages are never worth a disk write, and a block of it that
 * has been probed is not needed at all.  The table is hit at random and is worth keeping.
 *
 * A tuple of the probe input reads as zero once its page was dropped.  Neither field of a real tuple is ever zero, so
 * each tuple tells whether it is still there.
 */
#include "libos.h"
#include "support.h"

enum { TUPLES_PER_BLOCK = 16 * PAGE_SIZE / 16 };

struct tuple {
    uint64_t key;
    uint64_t payload;
};

struct join {
    const struct tuple *build;
    const uint32_t *heads; /* a tuple's index plus one, 0 for none */
    const uint32_t *next;
    uint64_t mask;
    uint64_t matches;
    uint64_t checksum;
};

static struct tuple generate(uint64_t seed, uint64_t index, uint64_t keys) {
    return (struct tuple){1 + random_at(seed, 2 * index) % keys, random_at(seed, 2 * index + 1) | 1};
}

static void *region(size_t size) {
    void *memory = os_region(size);
    if (memory == NULL) {
        stop(1, "hashjoin: there is no room for relations of this size", "");
    }
    return memory;
}

static void probe(struct join *join, struct tuple tuple) {
    for (uint32_t i = join->heads[random_at(tuple.key, 0) & join->mask]; i != 0; i = join->next[i - 1]) {
        const struct tuple *found = &join->build[i - 1];
        if (found->key == tuple.key) {
            join->matches++;
            join->checksum += random_at(found->payload + 3 * tuple.payload, tuple.key);
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 4) {
        stop(2, "hashjoin: give the sizes of the two relations in tuples and, if you like, a seed", "");
    }
    const uint64_t built = number_argument("hashjoin: the first size is a number", argv[1], 1, 1u << 31);
    const uint64_t probed = number_argument("hashjoin: the second size is a number", argv[2], 1, UINT64_C(1) << 40);
    const uint64_t seed = argc > 3 ? number_argument("hashjoin: the seed is a number", argv[3], 0, UINT64_MAX) : 1;

    uint64_t buckets = 1;
    while (buckets < built) {
        buckets *= 2;
    }
    struct tuple *build = region(built * sizeof *build);
    uint32_t *heads = region(buckets * sizeof *heads);
    uint32_t *next = region(built * sizeof *next);
    for (uint32_t i = 0; i < built; i++) {
        build[i] = generate(seed, i, built);
        uint32_t *head = &heads[random_at(build[i].key, 0) & (buckets - 1)];
        next[i] = *head;
        *head = i + 1;
    }

    /* Volatile, because the library OS may replace a page by zeros between any two accesses. */
    volatile struct tuple *input = region(probed * sizeof *input);
    os_advise((void *)input, probed * sizeof *input, OS_RECOMPUTABLE);
    for (uint64_t i = 0; i < probed; i++) {
        const struct tuple tuple = generate(~seed, i, built);
        input[i].key = tuple.key;
        input[i].payload = tuple.payload;
    }
    struct join join = {build, heads, next, buckets - 1, 0, 0};
    for (uint64_t first = 0; first < probed; first += TUPLES_PER_BLOCK) {
        const uint64_t count = probed - first < TUPLES_PER_BLOCK ? probed - first : TUPLES_PER_BLOCK;
        for (uint64_t i = first; i < first + count; i++) {
            struct tuple tuple = {input[i].key, input[i].payload};
            if (tuple.key == 0 || tuple.payload == 0) {
                tuple = generate(~seed, i, built);
            }
            probe(&join, tuple);
        }
        os_advise((void *)&input[first], count * sizeof *input, OS_DISCARD);
    }

    print_text("joined ");
    print_number(built);
    print_text(" tuples with ");
    print_number(probed);
    print_text(": ");
    print_number(join.matches);
    print_text(" matches, checksum ");
    print_number(join.checksum);
    print_line("");
    return 0;
}
