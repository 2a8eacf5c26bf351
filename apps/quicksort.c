/* Sorts pseudo-random numbers, checks the order, prints a checksum: quicksort N [SEED].
 *
 * Partitioning walks the array from both ends, first all of it and then ever smaller parts: a program whose working
 * set shrinks until it fits whatever memory there is.
 */
#include "libos.h"
#include "partition.h"
#include "support.h"

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) {
        stop(2, "quicksort: give the count of numbers to sort and, if you like, a seed", "");
    }
    const uint64_t most = SIZE_MAX / sizeof(uint64_t);
    const size_t count = number_argument("quicksort: the count is a number", argv[1], 0, most);
    uint64_t state = argc > 2 ? number_argument("quicksort: the seed is a number", argv[2], 0, UINT64_MAX) : 1;

    uint64_t *numbers = os_region((count > 0 ? count : 1) * sizeof(uint64_t));
    if (numbers == NULL) {
        stop(1, "quicksort: there is no room for this many numbers", "");
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        numbers[i] = random_next(&state);
        sum += numbers[i];
    }
    sort(numbers, count);

    uint64_t checksum = 0;
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && numbers[i - 1] > numbers[i]) {
            stop(1, "quicksort: the numbers are out of order after sorting", "");
        }
        checksum = checksum * CHECKSUM_FACTOR + numbers[i];
        sum -= numbers[i];
    }
    if (sum != 0) {
        stop(1, "quicksort: the sorted numbers are not the ones generated", "");
    }
    print_text("sorted ");
    print_number(count);
    print_text(" numbers: checksum ");
    print_number(checksum);
    print_line("");
    return 0;
}
