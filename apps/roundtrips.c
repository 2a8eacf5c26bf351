/* Words go from one environment to another and back, three ways, and the cycles are counted: roundtrips [ROUNDS] [SEED].
 *
 * By directed yield: the word lies in a shared page, and each gives the other the rest of its slice.  By pipe: one pipe
 * there and one back.  By protected control transfer: a call of the other's function.  The answer to a word is checked
 * each time; the first round trip of each kind is not counted.
 */
#include "libos.h"
#include "support.h"

enum { ANSWER, FINISH };

struct table {
    volatile uint64_t turn, word;
};

struct game {
    struct table *table;
    long there, back, other;
    uint64_t rounds, seed;
};

static uint64_t answer_to(uint64_t word) {
    return random_at(word, 0);
}

static void wait_for_turn(const struct game *game, uint64_t turn) {
    while (game->table->turn != turn) {
        os_yield_to(game->other);
    }
}

static uint64_t ask_by_yield(const struct game *game, uint64_t word) {
    game->table->word = word;
    game->table->turn++;
    wait_for_turn(game, game->table->turn + 1);
    return game->table->word;
}

static void send_word(long pipe, uint64_t word) {
    if (os_pipe_write(pipe, &word, sizeof word) != (long)sizeof word) {
        stop(1, "roundtrips: the other end of a pipe is gone", "");
    }
}

static bool receive_word(long pipe, uint64_t *word) {
    size_t got = 0;
    while (got < sizeof *word) {
        const long size = os_pipe_read(pipe, (char *)word + got, sizeof *word - got);
        if (size <= 0) {
            return false;
        }
        got += (size_t)size;
    }
    return true;
}

static uint64_t ask_by_pipe(const struct game *game, uint64_t word) {
    send_word(game->there, word);
    if (!receive_word(game->back, &word)) {
        stop(1, "roundtrips: there is no answer in the pipe", "");
    }
    return word;
}

static uint64_t ask_by_call(const struct game *game, uint64_t word) {
    uint64_t answer = 0;
    if (os_rpc_call(game->other, ANSWER, word, 0, 0, &answer) != 0) {
        stop(1, "roundtrips: a call was not answered", "");
    }
    return answer;
}

static uint64_t handle(long caller, uint64_t operation, uint64_t a, uint64_t b, uint64_t c) {
    (void)caller, (void)b, (void)c;
    if (operation == FINISH) {
        os_exit(0);
    }
    return answer_to(a);
}

static _Noreturn void answer(const struct game *game) {
    for (uint64_t round = 0; round <= game->rounds; round++) {
        wait_for_turn(game, 2 * round + 1);
        game->table->word = answer_to(game->table->word);
        game->table->turn++;
    }
    for (uint64_t word; receive_word(game->there, &word);) {
        send_word(game->back, answer_to(word));
    }
    os_rpc_serve(handle);
    stop(1, "roundtrips: the library OS does not let the program serve", "");
}

static void measure(const struct game *game, const char *how, uint64_t (*ask)(const struct game *, uint64_t)) {
    uint64_t begin = 0;
    for (uint64_t round = 0; round <= game->rounds; round++) {
        const uint64_t word = random_at(game->seed, round);
        if (ask(game, word) != answer_to(word)) {
            stop(1, "roundtrips: a wrong answer by ", how);
        }
        if (round == 0) {
            begin = os_time();
        }
    }
    const uint64_t cycles = os_time() - begin;
    print_text(how);
    print_text(": ");
    print_number(cycles / game->rounds);
    print_line(" cycles a round trip");
}

int main(int argc, char **argv) {
    struct game game = {.rounds = 200, .seed = 1};
    if (argc > 3) {
        stop(2, "roundtrips: after rounds and seed there is no place for ", argv[3]);
    }
    if (argc > 1) {
        game.rounds = number_argument("roundtrips: the first argument, rounds, is a number", argv[1], 1, 1u << 24);
    }
    if (argc > 2) {
        game.seed = number_argument("roundtrips: the second argument, the seed, is a number", argv[2], 0, UINT64_MAX);
    }
    game.table = os_shared();
    game.there = os_pipe();
    game.back = os_pipe();
    if (game.table == NULL || game.there < 0 || game.back < 0) {
        stop(1, "roundtrips: there is no room for pipes", "");
    }
    const long parent = os_self();
    const long child = os_fork();
    if (child < 0) {
        stop(1, "roundtrips: there is no room for another environment", "");
    }
    os_pipe_close(game.there, child == 0 ? OS_WRITE_END : OS_READ_END);
    os_pipe_close(game.back, child == 0 ? OS_READ_END : OS_WRITE_END);
    game.other = child == 0 ? parent : child;
    if (child == 0) {
        answer(&game);
    }
    measure(&game, "directed yield", ask_by_yield);
    measure(&game, "pipe", ask_by_pipe);
    os_pipe_close(game.there, OS_WRITE_END);
    measure(&game, "protected control transfer", ask_by_call);
    if (os_rpc_call(child, FINISH, 0, 0, 0, NULL) != OS_RPC_NOBODY || os_wait(child) != 0) {
        stop(1, "roundtrips: the child did not end well", "");
    }
    return 0;
}
