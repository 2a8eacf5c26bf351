/* Partitioning and small sorts of numbers, for the programs that sort. */
#ifndef PARTITION_H
#define PARTITION_H
#include <stddef.h>
#include <stdint.h>

enum { SMALL = 16 };

static inline void swap(uint64_t *a, uint64_t *b) {
    const uint64_t old = *a;
    *a = *b;
    *b = old;
}

static inline uint64_t median(uint64_t a, uint64_t b, uint64_t c) {
    const uint64_t low = a < b ? a : b, high = a < b ? b : a;
    return c < low ? low : c > high ? high : c;
}

static inline void insertion_sort(uint64_t *numbers, size_t count) {
    for (size_t i = 1; i < count; i++) {
        for (size_t j = i; j > 0 && numbers[j - 1] > numbers[j]; j--) {
            swap(&numbers[j - 1], &numbers[j]);
        }
    }
}

/* The size of the left part, from 1 to count - 1: nothing there is above the pivot, nothing to the right below it. */
static inline size_t partition(uint64_t *numbers, size_t count) {
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
static inline void sort(uint64_t *numbers, size_t count) {
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

#endif
