/* Counts the words of a file and prints the twenty most frequent: wordfreq FILE.
 *
 * A word is a run of ASCII letters, folded to lower case; every other byte separates.  The file is mapped and read
 * once from end to end, so its pages are the classic scan, while the hash table is the classic working set beside it.
 * Short words are copied next to each other; a long one stays where it is in the file, so a word may be longer than
 * memory.
 */
#include "libos.h"
#include "support.h"

enum { SHOWN = 20, FIRST_CAPACITY = 1024, LONGEST_COPY = 256, BLOCK_SIZE = 64 * 1024 };

struct entry {
    const char *text;
    size_t length;
    uint64_t hash;
    uint64_t count;
};

struct table {
    struct entry *entries;
    size_t capacity;
    size_t used;
    char *block;
    size_t block_left;
};

static char folded(char byte) {
    return byte >= 'A' && byte <= 'Z' ? (char)(byte | 0x20) : byte;
}

static bool is_letter(char byte) {
    return (unsigned char)((byte | 0x20) - 'a') < 26;
}

static bool same_word(const char *left, const char *right, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (folded(left[i]) != folded(right[i])) {
            return false;
        }
    }
    return true;
}

static bool comes_before(const struct entry *left, const struct entry *right) {
    if (left->count != right->count) {
        return left->count > right->count;
    }
    const size_t shorter = left->length < right->length ? left->length : right->length;
    for (size_t i = 0; i < shorter; i++) {
        const char a = folded(left->text[i]), b = folded(right->text[i]);
        if (a != b) {
            return a < b;
        }
    }
    return left->length < right->length;
}

static void *allocate(size_t size) {
    void *memory = os_alloc(size);
    if (memory == NULL) {
        stop(1, "wordfreq: there is no memory left for another word", "");
    }
    return memory;
}

static struct entry *empty_entries(size_t capacity) {
    if (capacity > SIZE_MAX / sizeof(struct entry)) {
        stop(1, "wordfreq: there are too many different words", "");
    }
    return memset(allocate(capacity * sizeof(struct entry)), 0, capacity * sizeof(struct entry));
}

static struct entry *place_of(struct table *table, const char *text, size_t length, uint64_t hash) {
    for (size_t i = (hash ^ (hash >> 32)) & (table->capacity - 1);; i = (i + 1) & (table->capacity - 1)) {
        struct entry *entry = &table->entries[i];
        if (entry->count == 0 ||
            (entry->hash == hash && entry->length == length && same_word(entry->text, text, length))) {
            return entry;
        }
    }
}

/* The words in the table differ, so no text is compared: growing touches the two tables and no page of the file. */
static void grow(struct table *table) {
    struct table larger = *table;
    larger.capacity *= 2;
    larger.entries = empty_entries(larger.capacity);
    for (size_t i = 0; i < table->capacity; i++) {
        const struct entry *entry = &table->entries[i];
        if (entry->count != 0) {
            size_t at = (entry->hash ^ (entry->hash >> 32)) & (larger.capacity - 1);
            while (larger.entries[at].count != 0) {
                at = (at + 1) & (larger.capacity - 1);
            }
            larger.entries[at] = *entry;
        }
    }
    os_free(table->entries);
    *table = larger;
}

static const char *kept(struct table *table, const char *text, size_t length) {
    if (length > LONGEST_COPY) {
        return text;
    }
    if (length > table->block_left) {
        table->block = allocate(BLOCK_SIZE);
        table->block_left = BLOCK_SIZE;
    }
    char *copy = memcpy(table->block, text, length);
    table->block += length;
    table->block_left -= length;
    return copy;
}

static void count_word(struct table *table, const char *text, size_t length, uint64_t hash) {
    struct entry *entry = place_of(table, text, length, hash);
    if (entry->count == 0) {
        *entry = (struct entry){kept(table, text, length), length, hash, 0};
        table->used++;
    }
    entry->count++;
    if (table->used > table->capacity / 3 * 2) {
        grow(table);
    }
}

static void count_words(struct table *table, const char *text, size_t size) {
    for (size_t at = 0; at < size;) {
        if (!is_letter(text[at])) {
            at++;
            continue;
        }
        const size_t first = at;
        uint64_t hash = UINT64_C(0xcbf29ce484222325);
        for (; at < size && is_letter(text[at]); at++) {
            hash = (hash ^ (uint64_t)(text[at] | 0x20)) * UINT64_C(0x100000001b3);
        }
        count_word(table, &text[first], at - first, hash);
    }
}

static void print_most_frequent(const struct table *table) {
    const struct entry *best[SHOWN];
    size_t found = 0;
    for (size_t i = 0; i < table->capacity; i++) {
        const struct entry *entry = &table->entries[i];
        if (entry->count == 0 || (found == SHOWN && !comes_before(entry, best[SHOWN - 1]))) {
            continue;
        }
        size_t rank = found < SHOWN ? found++ : SHOWN - 1;
        for (; rank > 0 && comes_before(entry, best[rank - 1]); rank--) {
            best[rank] = best[rank - 1];
        }
        best[rank] = entry;
    }
    for (size_t rank = 0; rank < found; rank++) {
        print_number(best[rank]->count);
        print_character(' ');
        for (size_t i = 0; i < best[rank]->length; i++) {
            print_character(folded(best[rank]->text[i]));
        }
        print_character('\n');
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        stop(2, "wordfreq: give one argument, the name of a file", "");
    }
    size_t size;
    const char *text = os_map_file(argv[1], &size);
    if (text == NULL) {
        stop(2, "wordfreq: the program was given no file named ", argv[1]);
    }
    struct table table = {.entries = empty_entries(FIRST_CAPACITY), .capacity = FIRST_CAPACITY};
    count_words(&table, text, size);
    print_most_frequent(&table);
    return 0;
}
