/* Multiplies the matrices of matmul with threads: pmatmul N [SEED [THREADS [PROCESSORS]]].
 *
 * Each thread takes the next row that nobody has, from a counter under a spinlock, until there are none; all meet at a
 * barrier, and the first adds up.  What is printed is what matmul prints with --order ikj.
 */
#include "libos.h"
#include "support.h"

enum { THREADS = 32, LARGEST = 32768 };

static double *a, *b, *c;
static size_t n, next_row;
static uint64_t threads = 4;
static struct os_spin rows;
static struct os_barrier finished;

static size_t take_row(void) {
    os_spin_lock(&rows);
    const size_t row = next_row < n ? next_row++ : n;
    os_spin_unlock(&rows);
    return row;
}

static long work(void *unused) {
    (void)unused;
    for (size_t i; (i = take_row()) < n;) {
        for (size_t k = 0; k < n; k++) {
            const double factor = a[i * n + k];
            for (size_t j = 0; j < n; j++) {
                c[i * n + j] += factor * b[k * n + j];
            }
        }
    }
    os_barrier_wait(&finished, threads);
    return 0;
}

static double *new_matrix(uint64_t *state) {
    double *matrix = os_region(n * n * sizeof(double));
    if (matrix == NULL) {
        stop(1, "pmatmul: there is no room for three matrices of this size", "");
    }
    for (size_t i = 0; state != NULL && i < n * n; i++) {
        matrix[i] = (double)(random_next(state) % 1024);
    }
    return matrix;
}

int main(int argc, char **argv) {
    uint64_t seed = 1, processors = 1;
    if (argc < 2 || argc > 5) {
        stop(2, "pmatmul: give the size of the matrices and, if you like, a seed, threads and processors", "");
    }
    n = number_argument("pmatmul: the size is a number", argv[1], 1, LARGEST);
    if (argc > 2) {
        seed = number_argument("pmatmul: the seed is a number", argv[2], 0, UINT64_MAX);
    }
    if (argc > 3) {
        threads = number_argument("pmatmul: the threads are a number", argv[3], 1, THREADS);
    }
    if (argc > 4) {
        processors = number_argument("pmatmul: the processors are a number", argv[4], 1, 16);
    }
    a = new_matrix(&seed);
    b = new_matrix(&seed);
    c = new_matrix(NULL);
    os_processors((long)processors);
    for (uint64_t i = 1; i < threads; i++) {
        if (os_thread_create(work, NULL) < 0) {
            stop(1, "pmatmul: there is no room for so many threads", "");
        }
    }
    work(NULL);

    uint64_t checksum = 0;
    for (size_t i = 0; i < n * n; i++) {
        checksum = checksum * CHECKSUM_FACTOR + (uint64_t)c[i];
    }
    print_text("multiplied two matrices of size ");
    print_number(n);
    print_text(" in order ikj: checksum ");
    print_number(checksum);
    print_line("");
    return 0;
}
