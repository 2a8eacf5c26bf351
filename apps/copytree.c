/* Copies a directory with everything below it inside the mounted file system: copytree FROM TO.
 *
 * Files, directories and symbolic links are copied with their permissions; names that were links of one file are links
 * of one file again.  A directory is read as a whole before anything is made in its copy, and closed, so trees may be as
 * deep as a path is long, and TO may lie inside FROM.
 */
#include "libos.h"
#include "support.h"

enum { BUFFER = 16 * 1024, AT_ONCE = 32, LONGEST = 4096, PERMISSIONS = 07777, OWN = 0700 };

/* A name that has been read, in a list. */
struct name {
    struct name *next;
    char text[];
};

/* A file with several names that has been copied: the number it had, and where its copy is. */
struct copied {
    struct copied *next;
    uint64_t inode;
    char path[];
};

static struct {
    uint64_t directories, files, links, symbolic, bytes;
} done;

static char from[LONGEST], to[LONGEST], buffer[BUFFER];
static struct copied *several;

static const char *reason(long error) {
    switch (-error) {
    case OS_ENOENT:
        return "copytree: there is no such file or directory, ";
    case OS_EEXIST:
        return "copytree: it exists already, ";
    case OS_ENOTDIR:
        return "copytree: this is no directory, ";
    case OS_ENOSPC:
        return "copytree: there is no space left for ";
    case OS_EROFS:
        return "copytree: the file system cannot be written to, ";
    case OS_ENOSYS:
        return "copytree: there is no file system; name one with --fs, for ";
    default:
        return "copytree: it cannot be read or written, ";
    }
}

/* The result, unless it is an error, with which the program ends. */
static long checked(long result, const char *path) {
    if (result < 0) {
        stop(1, reason(result), path);
    }
    return result;
}

static void *allocate(size_t size) {
    void *memory = os_alloc(size);
    if (memory == NULL) {
        stop(1, "copytree: there is no memory left for ", from);
    }
    return memory;
}

/* Puts a name behind a path; gives the path's length without it. */
static size_t enter(char *path, const char *name) {
    const size_t length = strlen(path), size = strlen(name);
    const size_t slash = length > 0 && path[length - 1] != '/';
    if (length + slash + size >= LONGEST) {
        stop(1, "copytree: the path is too long, ", path);
    }
    path[length] = '/';
    memcpy(&path[length + slash], name, size + 1);
    return length;
}

static struct name *names_in(const char *path) {
    static struct os_entry entries[AT_ONCE];
    const long directory = checked(os_open(path, OS_OPEN_READ | OS_OPEN_DIRECTORY, 0), path);
    struct name *names = NULL;
    for (long count; (count = checked(os_list(directory, entries, AT_ONCE), path)) > 0;) {
        for (long i = 0; i < count; i++) {
            const char *text = entries[i].name;
            if (strcmp(text, ".") != 0 && strcmp(text, "..") != 0) {
                struct name *name = allocate(sizeof *name + strlen(text) + 1);
                memcpy(name->text, text, strlen(text) + 1);
                name->next = names;
                names = name;
            }
        }
    }
    os_close(directory);
    return names;
}

/* Makes a link to a copy that is there; false if this is the first name of the file. */
static bool linked(uint64_t inode) {
    for (const struct copied *one = several; one != NULL; one = one->next) {
        if (one->inode == inode) {
            checked(os_link(one->path, to), to);
            done.links++;
            return true;
        }
    }
    struct copied *one = allocate(sizeof *one + strlen(to) + 1);
    one->inode = inode;
    memcpy(one->path, to, strlen(to) + 1);
    one->next = several;
    several = one;
    return false;
}

static void copy_file(const struct os_file_status *about) {
    if (about->links > 1 && linked(about->inode)) {
        return;
    }
    const long source = checked(os_open(from, OS_OPEN_READ, 0), from);
    const long target = checked(os_open(to, OS_OPEN_WRITE | OS_OPEN_CREATE | OS_OPEN_EXCLUSIVE, OWN), to);
    for (long size; (size = checked(os_read_file(source, buffer, BUFFER), from)) > 0;) {
        for (long written = 0; written < size;) {
            written += checked(os_write_file(target, &buffer[written], (size_t)(size - written)), to);
        }
        done.bytes += (uint64_t)size;
    }
    os_close(source);
    os_close(target);
    checked(os_set_mode(to, (int)about->mode & PERMISSIONS), to);
    done.files++;
}

static void copy_link(void) {
    static char target[LONGEST];
    target[checked(os_read_link(from, target, LONGEST - 1), from)] = '\0';
    checked(os_symlink(target, to), to);
    done.symbolic++;
}

static void copy(void) {
    struct os_file_status about;
    checked(os_stat(from, &about, 0), from);
    if (about.kind == OS_KIND_FILE) {
        copy_file(&about);
    } else if (about.kind == OS_KIND_SYMLINK) {
        copy_link();
    } else if (about.kind != OS_KIND_DIRECTORY) {
        stop(1, "copytree: this is neither file, directory nor symbolic link, ", from);
    } else {
        struct name *names = names_in(from);
        checked(os_make_directory(to, OWN), to);
        while (names != NULL) {
            struct name *name = names;
            const size_t from_length = enter(from, name->text), to_length = enter(to, name->text);
            copy();
            from[from_length] = to[to_length] = '\0';
            names = name->next;
            os_free(name);
        }
        checked(os_set_mode(to, (int)about.mode & PERMISSIONS), to);
        done.directories++;
    }
}

static void print_count(uint64_t count, const char *one, const char *several_of_them) {
    print_number(count);
    print_text(count == 1 ? one : several_of_them);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        stop(2, "copytree: give two arguments, a directory and the place of its copy", "");
    }
    if (strlen(argv[1]) >= LONGEST || strlen(argv[2]) >= LONGEST) {
        stop(2, "copytree: a path has at most 4095 letters", "");
    }
    memcpy(from, argv[1], strlen(argv[1]) + 1);
    memcpy(to, argv[2], strlen(argv[2]) + 1);
    copy();
    checked(os_sync(-1, 0), to);
    print_count(done.directories, " directory, ", " directories, ");
    print_count(done.files, " file with ", " files with ");
    print_count(done.bytes, " byte, ", " bytes, ");
    print_count(done.links, " more name, ", " more names, ");
    print_count(done.symbolic, " symbolic link copied\n", " symbolic links copied\n");
    return 0;
}
