/* The part of the library OS that decides which page leaves: its interface.
 *
 * A pager is a shared object called libpager.so.1 that defines the four pager_ functions and uses what it likes of the
 * four others, which the base defines.  The rules between them are those of libos/replacement/strategy.py:
 *
 *   1. pager_admit(page) after the page became resident, pager_forget(page) after it ceased to be, for whatever reason
 *      and in any order.  Between the two it is resident, and pager_victim may name it.
 *   2. pager_victim names a resident page and removes nothing; it is called only when at least one page is resident.
 *      If the base evicts the page, pager_forget follows; it may as well ask again, or never come back to it.
 *   3. Accessed bits cleared during a call are cleared when it ends: look at a page before you clear it, and only once.
 *   4. Nothing here may fault: keep data in static variables or in pager_memory, never in the program's heap, and use
 *      no vector registers (-mgeneral-regs-only).
 *
 * A page is a small number, below `pages`, that means the same page of the program for as long as it runs; what the
 * base keeps resident is its business.  `frames` is how many pages may be resident, or 0 if only the kernel sets a
 * bound.
 */
#ifndef PAGER_H
#define PAGER_H
#include <stddef.h>
#include <stdint.h>

void pager_start(uint32_t pages, uint32_t frames, uint64_t seed);
void pager_admit(uint32_t page);
void pager_forget(uint32_t page);
uint32_t pager_victim(void);

/* Whether the page was used since its accessed bit was last cleared. */
int page_accessed(uint32_t page);
void page_clear_accessed(uint32_t page);

/* Whether evicting the page now would cost a write to the disk. */
int page_dirty(uint32_t page);

/* Zeroed memory that never leaves, for pager_start only: two bytes a page are reasonable.  The program ends with a
 * message if there is no room. */
void *pager_memory(size_t size);

#endif
