/* The base of a native library OS, for a pager on the host: memory that is there, and bits that the test sets. */
#include <stdlib.h>
#include "pager.h"

enum { PAGES = 1 << 12 };

uint8_t accessed[PAGES], dirty[PAGES];
static uint32_t cleared[PAGES], clear_count;

int page_accessed(uint32_t page) {
    return accessed[page];
}

int page_dirty(uint32_t page) {
    return dirty[page];
}

void page_clear_accessed(uint32_t page) {
    cleared[clear_count++] = page;
}

void *pager_memory(size_t size) {
    return calloc(1, size);
}

uint32_t ask_for_victim(void) {
    uint32_t page = pager_victim();
    while (clear_count)
        accessed[cleared[--clear_count]] = 0;
    return page;
}
