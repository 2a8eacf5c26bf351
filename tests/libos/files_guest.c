/* Every function about files, with what it gives: files_guest DIRECTORY. */
#include <libos.h>
#include <support.h>

static char where[512], other[512];

static const char *in(const char *directory, const char *name) {
    size_t length = strlen(directory);
    memcpy(where, directory, length);
    memcpy(where + length, name, strlen(name) + 1);
    return where;
}

static const char *also_in(const char *directory, const char *name) {
    size_t length = strlen(directory);
    memcpy(other, directory, length);
    memcpy(other + length, name, strlen(name) + 1);
    return other;
}

static void show(const char *what, long result) {
    print_text(what);
    print_text(result < 0 ? " -" : " ");
    print_number((uint64_t)(result < 0 ? -result : result));
    print_character('\n');
}

static void show_status(const char *path, int follow) {
    struct os_file_status status;
    long result = os_stat(path, &status, follow);
    show("stat", result);
    if (result == 0) {
        show("  kind", (long)status.kind);
        show("  mode", (long)status.mode);
        show("  size", status.kind == OS_KIND_DIRECTORY ? 0 : (long)status.size);
        show("  links", status.kind == OS_KIND_DIRECTORY ? 0 : (long)status.links);
    }
}

static void show_list(long directory) {
    static struct os_entry entries[7];
    uint64_t names = 0, kinds = 0, inodes = 0;
    long count, all = 0;
    while ((count = os_list(directory, entries, 7)) > 0) {
        for (long i = 0; i < count; i++) {
            for (const char *c = entries[i].name; *c; c++)
                names += (uint64_t)*c;
            kinds += entries[i].kind;
            inodes += entries[i].inode == 0;
        }
        all += count;
    }
    show("list", count);
    show("  entries", all);
    show("  names", (long)names);
    show("  kinds", (long)kinds);
    show("  without inode", (long)inodes);
}

static void files(const char *at) {
    static char buffer[100000], back[100000];
    for (size_t i = 0; i < sizeof buffer; i++)
        buffer[i] = (char)random_at(7, i);
    long whole = os_open(in(at, "/whole"), OS_OPEN_WRITE | OS_OPEN_CREATE, 0666);
    show_status(where, 1);
    os_write_file(whole, buffer, sizeof buffer);
    os_close(whole);
    const char *large = os_map_file(where, NULL);
    show("large", large ? memcmp(large, buffer, sizeof buffer) : -1);
    show("nothing of no name", os_map_file("", NULL) ? 1 : 0);
    show("open nothing", os_open(in(at, "/none"), OS_OPEN_READ, 0));
    long file = os_open(in(at, "/file"), OS_OPEN_BOTH | OS_OPEN_CREATE | OS_OPEN_EXCLUSIVE, 0640);
    show("open", file < 0 ? file : 0);
    show("again", os_open(where, OS_OPEN_BOTH | OS_OPEN_CREATE | OS_OPEN_EXCLUSIVE, 0640));
    show("write", os_write_file(file, buffer, sizeof buffer));
    show("write nothing", os_write_file(file, buffer, 0));
    show("here", os_seek(file, 0, OS_FROM_HERE));
    show("read at the end", os_read_file(file, back, 10));
    show("seek", os_seek(file, -99999, OS_FROM_HERE));
    show("read", os_read_file(file, back + 1, sizeof back));
    show("same", memcmp(buffer + 1, back + 1, sizeof back - 1));
    show("seek before", os_seek(file, -1, OS_FROM_START));
    show("seek from nowhere", os_seek(file, 0, 7));
    show("beyond", os_seek(file, 50000, OS_FROM_END));
    show("write", os_write_file(file, "end", 3));
    show("in the hole", os_seek(file, 120000, OS_FROM_START));
    show("read", os_read_file(file, back, 5));
    show("zeros", back[0] | back[4]);
    show_status(where, 1);
    show("sync", os_sync(file, 0));
    show("data", os_sync(file, 1));
    show("everything", os_sync(-1, 0));
    show("truncate", os_truncate(file, 10));
    show_status(where, 1);
    show("mode", os_set_mode(where, 0604));
    show_status(where, 0);
    show("close", os_close(file));
    show("close", os_close(file));
    show("read", os_read_file(file, back, 1));
    file = os_open(where, OS_OPEN_WRITE | OS_OPEN_APPEND, 0);
    show("append", os_write_file(file, "tail", 4));
    show("read of a writer", os_read_file(file, back, 1));
    os_close(file);
    file = os_open(where, OS_OPEN_READ, 0);
    show("all", os_read_file(file, back, 100));
    show("tail", memcmp(back + 10, "tail", 4));
    show("write of a reader", os_write_file(file, "x", 1));
    show("truncate of a reader", os_truncate(file, 1));
    size_t size = 77;
    const char *mapped = os_map_file(where, &size);
    show("mapped", mapped ? (long)size : -1);
    show("contents", mapped ? memcmp(mapped, back, 14) : -1);
    int rest = 0;
    for (int i = 14; mapped && i < PAGE_SIZE; i++)
        rest |= mapped[i];
    show("zeros behind them", rest);
    show("unlink open", os_remove(where));
    show_status(where, 1);
    show("start", os_seek(file, 0, OS_FROM_START));
    show("still", os_read_file(file, back, 100));
    os_close(file);
    show("empty", os_close(os_open(in(at, "/empty"), OS_OPEN_WRITE | OS_OPEN_CREATE, 0600)));
    show("truncated", os_close(os_open(where, OS_OPEN_WRITE | OS_OPEN_TRUNCATE, 0600)));
    mapped = os_map_file(where, &size);
    show("nothing mapped", mapped ? (long)size : -1);
    show("no directory mapped", os_map_file(at, &size) ? 1 : 0);
    show("no file mapped", os_map_file(in(at, "/none"), &size) ? 1 : 0);
}

static void names(const char *at) {
    static char target[64], name[8] = "/many00";
    show("directory", os_make_directory(in(at, "/directory"), 0751));
    show("again", os_make_directory(where, 0751));
    show_status(where, 1);
    show("below", os_make_directory(in(at, "/directory/below"), 0700));
    show("not there", os_make_directory(in(at, "/none/below"), 0700));
    show("not empty", os_remove(in(at, "/directory")));
    show("link", os_link(in(at, "/empty"), also_in(at, "/directory/linked")));
    show_status(other, 1);
    show("link of a directory", os_link(in(at, "/directory"), also_in(at, "/second")));
    show("symlink", os_symlink("directory/linked", in(at, "/symbolic")));
    show_status(where, 0);
    show_status(where, 1);
    show("target", os_read_link(where, target, sizeof target));
    show("right", memcmp(target, "directory/linked", 16));
    show("part", os_read_link(where, target, 3));
    show("no link", os_read_link(in(at, "/empty"), target, 3));
    show("no follow", os_open(in(at, "/symbolic"), OS_OPEN_READ | OS_OPEN_NO_FOLLOW, 0));
    show("loop", os_symlink("loop", in(at, "/loop")));
    show("round", os_open(where, OS_OPEN_READ, 0));
    show("rename", os_rename(in(at, "/directory/linked"), also_in(at, "/directory/below/moved")));
    show("dangling", os_open(in(at, "/symbolic"), OS_OPEN_READ, 0));
    show("into itself", os_rename(in(at, "/directory"), also_in(at, "/directory/below/directory")));
    show("over a file", os_rename(in(at, "/directory"), also_in(at, "/empty")));
    show("write a directory", os_open(in(at, "/directory"), OS_OPEN_WRITE, 0));
    show("only directories", os_open(in(at, "/empty"), OS_OPEN_READ | OS_OPEN_DIRECTORY, 0));
    for (int i = 0; i < 30; i++) {
        name[5] = (char)('0' + i / 10), name[6] = (char)('0' + i % 10);
        os_close(os_open(in(at, name), OS_OPEN_WRITE | OS_OPEN_CREATE, 0600));
    }
    long directory = os_open(at, OS_OPEN_READ | OS_OPEN_DIRECTORY, 0);
    show_list(directory);
    show("again", os_seek(directory, 0, OS_FROM_START));
    show_list(directory);
    show("read a directory", os_read_file(directory, target, 1) < 0);
    os_close(directory);
    show("list nothing", os_list(directory, NULL, 0));
}

static void children(const char *at) {
    char back[8] = {0};
    long file = os_open(in(at, "/shared"), OS_OPEN_BOTH | OS_OPEN_CREATE, 0600);
    os_write_file(file, "abcdef", 6);
    os_seek(file, 1, OS_FROM_START);
    const char *mapped = os_map_file(where, NULL);
    flush();
    long child = os_fork();
    if (child == 0) {
        long result = mapped[5] == 'f' && os_read_file(file, back, 2) == 2 && memcmp(back, "bc", 2) == 0;
        os_close(file);
        os_exit(result ? 5 : 6);
    }
    show("child", os_wait(child));
    show("position", os_seek(file, 0, OS_FROM_HERE));
    show("write", os_write_file(file, "XY", 2));
    os_seek(file, 0, OS_FROM_START);
    show("read", os_read_file(file, back, 8));
    show("same", memcmp(back, "abcXYf", 6));
    show("mapped", mapped[0]);
    os_close(file);
}

static void many(const char *at) {
    long first = os_open(in(at, "/shared"), OS_OPEN_READ, 0);
    os_close(first);
    for (int round = 0; round < 100; round++) {
        long next = os_open(where, OS_OPEN_READ, 0);
        if (next != first)
            show("another number", next);
        os_close(next);
    }
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    static char deep[4200];
    show("no map", os_map_file("/no/such/file", NULL) ? 1 : 0);
    files(argv[1]);
    names(argv[1]);
    children(argv[1]);
    many(argv[1]);
    memset(deep, 'x', sizeof deep - 1);
    show("too long a name", os_open(deep, OS_OPEN_READ, 0));
    deep[0] = '/';
    for (size_t i = 2; i < sizeof deep - 1; i += 2)
        deep[i] = '/';
    show("too long a path", os_make_directory(deep, 0700));
    show("no name", os_open("", OS_OPEN_READ, 0));
    return 0;
}
