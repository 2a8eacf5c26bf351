/* The heap: os_alloc and os_free over regions of the program's own pageable memory.
 *
 * A block is a header of eight bytes, then what the caller gets, 16-byte aligned.  The header has the block's size, a
 * multiple of 16, and two flags: this block is used, the block before is used.  A free block repeats its size in its
 * last eight bytes, so that its successor can find it, and hangs in the list of its size class, one class for each
 * power of two.  Two free blocks are never neighbours.  An area ends in a used block of size zero; areas that happen
 * to lie next to one another become one.  (Boundary tags: Knuth, The Art of Computer Programming 1, section 2.5.)
 *
 * It uses nothing of the library but functions of the interface, so it can be tested on any machine.
 */
#include <libos.h>

#define USED 1ull
#define BEFORE_USED 2ull
#define SIZE(block) ((block)->header & ~15ull)
#define SMALLEST 32
#define AREA (64 << 10)
#define CLASSES 48

struct block {
    uint64_t header;
    struct block *next, *previous;
};

static struct os_mutex mutex; /* around everything below */
static struct block *classes[CLASSES];
static char *area_end;

static struct block *at(struct block *block, uint64_t distance) {
    return (struct block *)((char *)block + distance);
}

static uint32_t class_of(uint64_t size) {
    return 63 - (uint32_t)__builtin_clzll(size);
}

static void hang(struct block *block, uint64_t size, uint64_t before) {
    struct block **class = &classes[class_of(size)];
    block->header = size | before;
    *(uint64_t *)((char *)block + size - 8) = size;
    at(block, size)->header &= ~BEFORE_USED;
    block->previous = NULL;
    block->next = *class;
    if (*class)
        (*class)->previous = block;
    *class = block;
}

static void unhang(struct block *block) {
    if (block->previous)
        block->previous->next = block->next;
    else
        classes[class_of(SIZE(block))] = block->next;
    if (block->next)
        block->next->previous = block->previous;
}

/* Frees `size` bytes at `block`, whose predecessor is used or not as `before` says, together with free neighbours. */
static void give_back(struct block *block, uint64_t size, uint64_t before) {
    struct block *after = at(block, size);
    if (!(after->header & USED)) {
        unhang(after);
        size += SIZE(after);
    }
    if (!before) {
        uint64_t distance = *(uint64_t *)((char *)block - 8);
        block = (struct block *)((char *)block - distance);
        unhang(block);
        size += distance;
        before = block->header & BEFORE_USED;
    }
    hang(block, size, before);
}

/* Gets an area from which a block of `size` bytes can be cut; 0 if there is none. */
static int grow(uint64_t size) {
    uint64_t wanted = size + 32 < AREA ? AREA : (size + 32 + 4095) & ~4095ull;
    char *area = os_region(wanted);
    if (!area && wanted == AREA)
        area = os_region(wanted = (size + 32 + 4095) & ~4095ull);
    if (!area)
        return 0;
    struct block *last = (struct block *)(area + wanted - 8), *first = (struct block *)(area + 8);
    uint64_t before = BEFORE_USED;
    if (area == area_end) {
        first = (struct block *)(area - 8);
        before = first->header & BEFORE_USED;
    }
    last->header = USED | BEFORE_USED;
    area_end = area + wanted;
    give_back(first, (uint64_t)((char *)last - (char *)first), before);
    return 1;
}

/* A free block of at least `size` bytes, off its list: first fit, from the size's own class upwards. */
static struct block *find(uint64_t size) {
    for (uint32_t class = class_of(size); class < CLASSES; class++)
        for (struct block *block = classes[class]; block; block = block->next)
            if (SIZE(block) >= size) {
                unhang(block);
                return block;
            }
    return NULL;
}

static void *allocate(uint64_t size) {
    struct block *block = find(size);
    if (!block && (!grow(size) || !(block = find(size))))
        return NULL;
    uint64_t whole = SIZE(block), before = block->header & BEFORE_USED;
    if (whole - size >= SMALLEST) {
        block->header = size | before | USED;
        hang(at(block, size), whole - size, BEFORE_USED);
    } else {
        block->header = whole | before | USED;
        at(block, whole)->header |= BEFORE_USED;
    }
    return (char *)block + 8;
}

void *os_alloc(size_t wanted) {
    if (wanted > SIZE_MAX / 4)
        return NULL;
    uint64_t size = ((uint64_t)wanted + 8 + 15) & ~15ull;
    os_mutex_lock(&mutex);
    void *memory = allocate(size < SMALLEST ? SMALLEST : size);
    os_mutex_unlock(&mutex);
    return memory;
}

void os_free(void *memory) {
    static const char complaint[] = "os_free: this is no block of the heap, or it was freed before.\n";
    if (!memory)
        return;
    struct block *block = (struct block *)((char *)memory - 8);
    if ((uint64_t)memory & 15 || !(block->header & USED) || SIZE(block) < SMALLEST) {
        os_write(complaint, sizeof complaint - 1);
        os_exit(134);
    }
    os_mutex_lock(&mutex);
    give_back(block, SIZE(block), block->header & BEFORE_USED);
    os_mutex_unlock(&mutex);
}
