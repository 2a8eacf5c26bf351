/* Threads that compute, in vector registers too, and meet at every kind of lock; what is printed depends on no order.
 *
 * threads_at_work PROCESSORS THREADS ROUNDS PAGES: in each round every thread touches PAGES of a region of its own.
 */
#include "libos.h"
#include "support.h"

enum { MOST = 40, QUEUE = 4 };

static struct os_mutex mutex;
static struct os_condition has_room, has_more;
static struct os_barrier barrier;
static struct os_spin spin;
static uint64_t threads, rounds, pages, guarded, spun, last_ones, taken_sum, queue[QUEUE], put, taken;
static uint64_t sums[MOST];
static double reals[MOST];

static void enqueue(uint64_t value) {
    os_mutex_lock(&mutex);
    while (put - taken == QUEUE) {
        os_condition_wait(&has_room, &mutex);
    }
    queue[put++ % QUEUE] = value;
    os_condition_signal(&has_more);
    os_mutex_unlock(&mutex);
}

static void dequeue(void) {
    os_mutex_lock(&mutex);
    while (put == taken) {
        os_condition_wait(&has_more, &mutex);
    }
    taken_sum += queue[taken++ % QUEUE];
    os_condition_broadcast(&has_room);
    os_mutex_unlock(&mutex);
}

static long work(void *argument) {
    const uint64_t me = (uint64_t)argument;
    uint64_t random = me + 1, sum = 0;
    double x = (double)(me + 1), y = 1.0, z = 0.5;
    uint64_t *own = pages == 0 ? NULL : os_region(pages * PAGE_SIZE);
    for (uint64_t round = 0; round < rounds; round++) {
        for (uint64_t step = 0; step < 200; step++) {
            x = x * 1.0000001 + z;
            y = y + x / (z + 2.0);
            z = z * 0.999 + (double)(random_next(&random) % 1000) * 0.001;
            sum = sum * CHECKSUM_FACTOR + step;
        }
        for (uint64_t page = 0; page < pages; page++) {
            uint64_t *word = &own[page * WORDS_PER_PAGE + (page * 37 + round) % WORDS_PER_PAGE];
            *word += random_next(&random);
            sum ^= *word;
        }
        uint64_t *block = os_alloc(24 + (size_t)(random_next(&random) % 500));
        *block = sum;
        os_mutex_lock(&mutex);
        guarded += round;
        os_mutex_unlock(&mutex);
        os_spin_lock(&spin);
        spun = spun + 1;
        os_spin_unlock(&spin);
        if (me % 2 == 0) {
            enqueue(me * 1000 + round);
        } else {
            dequeue();
        }
        sum += *block;
        os_free(block);
        if (os_barrier_wait(&barrier, threads)) {
            last_ones++;
        }
        os_critical_enter();
        if (round % 3 == me % 3) {
            os_thread_yield();
        }
        os_critical_leave();
    }
    sums[me] = sum;
    reals[me] = x + y + z;
    return (long)(sum % 1000003);
}

int main(int argc, char **argv) {
    long numbers[MOST] = {0};
    uint64_t sum = 0, results = 0, processors;
    if (argc < 5) {
        return 2;
    }
    processors = number_argument("processors", argv[1], 0, 31);
    threads = number_argument("threads, an even number", argv[2], 2, MOST);
    rounds = number_argument("rounds", argv[3], 1, 100000);
    pages = number_argument("pages", argv[4], 0, 1000);
    os_processors((long)processors);
    for (uint64_t i = 0; i < threads; i++) {
        numbers[i] = os_thread_create(work, (void *)i);
        if (numbers[i] < 0) {
            stop(1, "no room for thread ", argv[2]);
        }
    }
    for (uint64_t i = 0; i < threads; i++) {
        results += (uint64_t)os_thread_join(numbers[i]);
        uint64_t bits;
        __builtin_memcpy(&bits, &reals[i], sizeof bits);
        sum = (sum + sums[i]) * CHECKSUM_FACTOR + bits;
    }
    print_text("sums ");
    print_number(sum);
    print_text(", results ");
    print_number(results);
    print_text(", guarded ");
    print_number(guarded);
    print_text(", spun ");
    print_number(spun);
    print_text(", last ones ");
    print_number(last_ones);
    print_text(", taken ");
    print_number(taken_sum);
    print_line("");
    return os_thread_join(numbers[0]) == -1 ? 0 : 3;
}
