/* Sorts pseudo-random numbers, checks the order, prints a checksum: quicksort N [SEED].
 *
 * Partitioning walks the array from both ends, first all of it and then ever smaller parts: a program whose working
 * set shrinks until it fits whatever memory there is.
 */
#include "libos.h"
#include "support.h"

enum { SMALL = 16 };

static void swap(uint64_t *a, uint64_t *b) {
    const uint64_t old = *a;
    *a = *b;
    *b = old;
}

static uint64_t median(uint64_t a, uint64_t b, uint64_t c) {
    const uint64_t low = a < b ? a : b, high = a < b ? b : a;
    return c < low ? low : c > high ? high : c;
}

static void insertion_sort(uint64_t *numbers, size_t count) {
    for (size_t i = 1; i < count; i++) {
        for (size_t j = i; j > 0 && numbers[j - 1] > numbers[j]; j--) {
            swap(&numbers[j - 1], &numbers[j]);
        }
    }
}

/* The size of the left part, from 1 to count - 1: nothing there is above the pivot, nothing to the right below it. */
static size_t partition(uint64_t *numbers, size_t count) {
    const uint64_t pivot = median(numbers[0], numbers[count / 2], numbers[count - 1]);
    size_t left = 0, right = count - 1;
    for (;;) {
        while (numbers[left] < pivot) {
            left++;
        }
        while (numbers[right] > pivot) {
            right--;
        }
        if (left >= right) {
            return right + 1;
        }
        swap(&numbers[left++], &numbers[right--]);
    }
}

/* Only the smaller part is sorted by recursion, so the depth is at most the logarithm of the count. */
static void sort(uint64_t *numbers, size_t count) {
    while (count > SMALL) {
        const size_t left = partition(numbers, count);
        if (left < count - left) {
            sort(numbers, left);
            numbers += left;
            count -= left;
        } else {
            sort(numbers + left, count - left);
            count = left;
        }
    }
    insertion_sort(numbers, count);
}

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
