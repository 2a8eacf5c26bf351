/* Multiplies two square matrices in a chosen order: matmul N [SEED] [--order ijk|ikj|tiled].
 *
 * The three orders do the same multiplications and give the same result, but walk memory differently: ijk reads one
 * matrix down its columns (a page for each element when a row fills a page), ikj reads rows only, tiled stays within
 * small squares.  The elements are whole numbers below 1024 held as doubles, so every sum is exact in any order and
 * the checksum is one number, not a matter of rounding.
 */
#include "libos.h"
#include "support.h"

enum { TILE = 32, LARGEST = 32768 };

static void fill(double *matrix, size_t n, uint64_t *state) {
    for (size_t i = 0; i < n * n; i++) {
        matrix[i] = (double)(random_next(state) % 1024);
    }
}

static void multiply_ijk(const double *a, const double *b, double *c, size_t n) {
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t k = 0; k < n; k++) {
                sum += a[i * n + k] * b[k * n + j];
            }
            c[i * n + j] = sum;
        }
    }
}

static void multiply_ikj(const double *a, const double *b, double *c, size_t n) {
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < n; k++) {
            const double factor = a[i * n + k];
            for (size_t j = 0; j < n; j++) {
                c[i * n + j] += factor * b[k * n + j];
            }
        }
    }
}

static size_t tile_end(size_t begin, size_t n) {
    return n - begin < TILE ? n : begin + TILE;
}

static void multiply_tiled(const double *a, const double *b, double *c, size_t n) {
    for (size_t i0 = 0; i0 < n; i0 += TILE) {
        for (size_t k0 = 0; k0 < n; k0 += TILE) {
            for (size_t j0 = 0; j0 < n; j0 += TILE) {
                for (size_t i = i0; i < tile_end(i0, n); i++) {
                    for (size_t k = k0; k < tile_end(k0, n); k++) {
                        const double factor = a[i * n + k];
                        for (size_t j = j0; j < tile_end(j0, n); j++) {
                            c[i * n + j] += factor * b[k * n + j];
                        }
                    }
                }
            }
        }
    }
}

static double *new_matrix(size_t n) {
    double *matrix = os_region(n * n * sizeof(double));
    if (matrix == NULL) {
        stop(1, "matmul: there is no room for three matrices of this size", "");
    }
    return matrix;
}

int main(int argc, char **argv) {
    const char *order = "ijk";
    uint64_t numbers[2] = {0, 1};
    int given = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--order") == 0) {
            order = i + 1 < argc ? argv[++i] : "";
        } else if (given == 0) {
            numbers[given++] = number_argument("matmul: the size is a number", argv[i], 1, LARGEST);
        } else if (given == 1) {
            numbers[given++] = number_argument("matmul: the seed is a number", argv[i], 0, UINT64_MAX);
        } else {
            stop(2, "matmul: after size and seed there is no place for ", argv[i]);
        }
    }
    if (given == 0) {
        stop(2, "matmul: give the size of the matrices, for example 64", "");
    }
    void (*multiply)(const double *, const double *, double *, size_t) = NULL;
    if (strcmp(order, "ijk") == 0) {
        multiply = multiply_ijk;
    } else if (strcmp(order, "ikj") == 0) {
        multiply = multiply_ikj;
    } else if (strcmp(order, "tiled") == 0) {
        multiply = multiply_tiled;
    } else {
        stop(2, "matmul: the order is ijk, ikj or tiled, not ", *order == '\0' ? "nothing" : order);
    }

    const size_t n = numbers[0];
    double *a = new_matrix(n), *b = new_matrix(n), *c = new_matrix(n);
    fill(a, n, &numbers[1]);
    fill(b, n, &numbers[1]);
    multiply(a, b, c, n);

    uint64_t checksum = 0;
    for (size_t i = 0; i < n * n; i++) {
        checksum = checksum * CHECKSUM_FACTOR + (uint64_t)c[i];
    }
    print_text("multiplied two matrices of size ");
    print_number(n);
    print_text(" in order ");
    print_text(order);
    print_text(": checksum ");
    print_number(checksum);
    print_line("");
    return 0;
}
