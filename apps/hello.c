/* Greets, and prints its arguments, one a line.
 *
 * The smallest program there is: if it runs, loading, linking, the console and the end of a program work.
 */
#include "support.h"

int main(int argc, char **argv) {
    print_line("Hello from ring 3.");
    for (int i = 1; i < argc; i++) {
        print_line(argv[i]);
    }
    return 0;
}
