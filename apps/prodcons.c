/* A producer and a consumer, one in each of two environments, with a pipe between them: prodcons [KILOBYTES] [SEED].
 *
 * The producer writes pieces of random sizes, the consumer reads pieces of other sizes, and each works between two pieces
 * for a random while, so that now the one waits and now the other.  The bytes are random too; both sum them up.  When the
 * consumer has come to the end of the pipe it ends, and the producer, its parent, prints.
 */
#include "libos.h"
#include "support.h"

enum { LONGEST_PIECE = 6000, LONGEST_WORK = 4000 };

struct side {
    long pipe;
    uint64_t chance;
    uint64_t bytes, checksum;
    unsigned char piece[LONGEST_PIECE];
};

static void work(struct side *side) {
    const uint64_t turns = random_next(&side->chance) % LONGEST_WORK;
    for (volatile uint64_t turn = 0; turn < turns; turn++) {
    }
}

static void add_up(struct side *side, size_t size) {
    for (size_t i = 0; i < size; i++) {
        side->checksum = side->checksum * CHECKSUM_FACTOR + side->piece[i];
    }
    side->bytes += size;
}

static void produce(struct side *side, uint64_t seed, uint64_t total) {
    while (side->bytes < total) {
        const uint64_t size = 1 + random_next(&side->chance) % LONGEST_PIECE;
        const uint64_t left = total - side->bytes;
        const size_t piece = size < left ? size : left;
        for (size_t i = 0; i < piece; i++) {
            side->piece[i] = (unsigned char)random_at(seed, side->bytes + i);
        }
        add_up(side, piece);
        if (os_pipe_write(side->pipe, side->piece, piece) != (long)piece) {
            stop(1, "prodcons: the consumer is gone", "");
        }
        work(side);
    }
}

static _Noreturn void consume(struct side *side, uint64_t *result) {
    for (;;) {
        const size_t size = 1 + random_next(&side->chance) % LONGEST_PIECE;
        const long got = os_pipe_read(side->pipe, side->piece, size);
        if (got < 0) {
            stop(1, "prodcons: the pipe is broken", "");
        }
        if (got == 0) {
            break;
        }
        add_up(side, (size_t)got);
        work(side);
    }
    result[0] = side->bytes;
    result[1] = side->checksum;
    os_exit(0);
}

int main(int argc, char **argv) {
    static struct side side;
    uint64_t kilobytes = 32, seed = 1;
    if (argc > 3) {
        stop(2, "prodcons: after kilobytes and seed there is no place for ", argv[3]);
    }
    if (argc > 1) {
        kilobytes = number_argument("prodcons: the first argument, kilobytes, is a number", argv[1], 0, 1u << 20);
    }
    if (argc > 2) {
        seed = number_argument("prodcons: the second argument, the seed, is a number", argv[2], 0, UINT64_MAX);
    }
    uint64_t *result = os_shared();
    side.pipe = os_pipe();
    if (result == NULL || side.pipe < 0) {
        stop(1, "prodcons: there is no room for a pipe", "");
    }
    const long consumer = os_fork();
    if (consumer < 0) {
        stop(1, "prodcons: there is no room for another environment", "");
    }
    side.chance = consumer == 0 ? ~seed : seed;
    os_pipe_close(side.pipe, consumer == 0 ? OS_WRITE_END : OS_READ_END);
    if (consumer == 0) {
        consume(&side, result);
    }
    produce(&side, seed, kilobytes * 1024);
    os_pipe_close(side.pipe, OS_WRITE_END);
    if (os_wait(consumer) != 0) {
        stop(1, "prodcons: the consumer did not end well", "");
    }
    print_text("produced ");
    print_number(side.bytes);
    print_text(" bytes, checksum ");
    print_number(side.checksum);
    print_text("\nconsumed ");
    print_number(result[0]);
    print_text(" bytes, checksum ");
    print_number(result[1]);
    print_line("");
    return side.bytes == result[0] && side.checksum == result[1] ? 0 : 1;
}
