/* Sorts the numbers of quicksort with threads: pquicksort N [SEED [THREADS [PROCESSORS]]].
 *
 * Parts that still have to be sorted lie on a stack under a mutex; a thread takes one, divides it, leaves the right half
 * there for another and goes on with the left.  Who finds none waits on a condition, until nobody works any more.  What
 * is printed is what quicksort prints.
 */
#include "libos.h"
#include "partition.h"
#include "support.h"

enum { PARTS = 4096, THREADS = 32, GRAIN = 512 };

struct part {
    uint64_t *numbers;
    size_t count;
};

static struct part parts[PARTS];
static size_t waiting_parts, working;
static struct os_mutex mutex;
static struct os_condition changed;

/* Leaves a part to whoever is free; 0 if the stack is full. */
static int leave_part(uint64_t *numbers, size_t count) {
    int left = 0;
    os_mutex_lock(&mutex);
    if (waiting_parts < PARTS) {
        parts[waiting_parts++] = (struct part){numbers, count};
        os_condition_signal(&changed);
        left = 1;
    }
    os_mutex_unlock(&mutex);
    return left;
}

static void sort_part(struct part part) {
    while (part.count > GRAIN) {
        const size_t left = partition(part.numbers, part.count);
        if (!leave_part(part.numbers + left, part.count - left)) {
            sort(part.numbers + left, part.count - left);
        }
        part.count = left;
    }
    sort(part.numbers, part.count);
}

static long work(void *unused) {
    (void)unused;
    os_mutex_lock(&mutex);
    for (;;) {
        while (waiting_parts == 0 && working > 0) {
            os_condition_wait(&changed, &mutex);
        }
        if (waiting_parts == 0) {
            break;
        }
        const struct part part = parts[--waiting_parts];
        working++;
        os_mutex_unlock(&mutex);
        sort_part(part);
        os_mutex_lock(&mutex);
        working--;
    }
    os_condition_broadcast(&changed);
    os_mutex_unlock(&mutex);
    return 0;
}

int main(int argc, char **argv) {
    static const char *const sentences[] = {
        "pquicksort: the count is a number",
        "pquicksort: the seed is a number",
        "pquicksort: the threads are a number",
        "pquicksort: the processors are a number",
    };
    static const uint64_t least[] = {0, 0, 1, 1}, most[] = {SIZE_MAX / sizeof(uint64_t), UINT64_MAX, THREADS, 16};
    uint64_t given[] = {0, 1, 4, 1};
    if (argc < 2 || argc > 5) {
        stop(2, "pquicksort: give the count of numbers to sort and, if you like, a seed, threads and processors", "");
    }
    for (int i = 1; i < argc; i++) {
        given[i - 1] = number_argument(sentences[i - 1], argv[i], least[i - 1], most[i - 1]);
    }
    const size_t count = given[0];
    uint64_t *numbers = os_region((count > 0 ? count : 1) * sizeof(uint64_t));
    if (numbers == NULL) {
        stop(1, "pquicksort: there is no room for this many numbers", "");
    }
    for (size_t i = 0; i < count; i++) {
        numbers[i] = random_next(&given[1]);
    }
    os_processors((long)given[3]);
    leave_part(numbers, count);
    long threads[THREADS];
    for (size_t i = 1; i < given[2]; i++) {
        threads[i] = os_thread_create(work, NULL);
        if (threads[i] < 0) {
            stop(1, "pquicksort: there is no room for so many threads", "");
        }
    }
    work(NULL);
    for (size_t i = 1; i < given[2]; i++) {
        os_thread_join(threads[i]);
    }
    uint64_t checksum = 0;
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && numbers[i - 1] > numbers[i]) {
            stop(1, "pquicksort: the numbers are out of order after sorting", "");
        }
        checksum = checksum * CHECKSUM_FACTOR + numbers[i];
    }
    print_text("sorted ");
    print_number(count);
    print_text(" numbers: checksum ");
    print_number(checksum);
    print_line("");
    return 0;
}
