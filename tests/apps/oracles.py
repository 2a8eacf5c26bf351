"""What the C programs must print, computed independently in Python.

Each function takes a program's argument list, beginning with its name, and gives the bytes it prints when it succeeds.
`expected_output` finds the function by the name.  The programs take files by name; so do the functions.
"""

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

WORD = (1 << 64) - 1
FACTOR = 6364136223846793005
GOLDEN = 0x9E3779B97F4A7C15
PAGE_SIZE = 4096
WORDS_PER_PAGE = PAGE_SIZE // 8


def random_at(seed: int, place: int) -> int:
    """The number at a place of splitmix64's sequence."""
    mixed = (seed + (place + 1) * GOLDEN) & WORD
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & WORD
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & WORD
    return mixed ^ mixed >> 31


def random_numbers(seed: int) -> Iterator[int]:
    """Splitmix64's sequence."""
    place = 0
    while True:
        yield random_at(seed, place)
        place += 1


def checksum(values: Sequence[int]) -> int:
    """The polynomial in FACTOR whose coefficients are the values, the first the highest."""
    result = 0
    for value in values:
        result = result * FACTOR + value & WORD
    return result


def hello(argv: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in ("Hello from ring 3.", *argv[1:])).encode()


def words_of(data: bytes) -> list[tuple[bytes, int]]:
    """The twenty most frequent words of some bytes with their counts, ties in alphabetical order."""
    counts = Counter(word.lower() for word in re.findall(rb"[A-Za-z]+", data))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:20]


def wordfreq(argv: Sequence[str]) -> bytes:
    return b"".join(b"%d %s\n" % (count, word) for word, count in words_of(Path(argv[1]).read_bytes()))


def matmul(argv: Sequence[str]) -> bytes:
    """In quadratic time: the checksum, a polynomial, is a vector times a matrix times a matrix times a vector."""
    numbers = [int(word) for word in argv[1:] if word.isdecimal()]
    order = argv[argv.index("--order") + 1] if "--order" in argv else "ijk"
    n, seed = numbers[0], numbers[1] if len(numbers) > 1 else 1
    chance = random_numbers(seed)
    a = [[next(chance) % 1024 for _ in range(n)] for _ in range(n)]
    b = [[next(chance) % 1024 for _ in range(n)] for _ in range(n)]
    column_weights = [pow(FACTOR, n - 1 - j, 1 << 64) for j in range(n)]
    b_weighted = [sum(x * y for x, y in zip(row, column_weights, strict=True)) for row in b]
    product_weighted = [sum(x * y for x, y in zip(row, b_weighted, strict=True)) for row in a]
    total = sum(pow(FACTOR, n * (n - 1 - i), 1 << 64) * value for i, value in enumerate(product_weighted)) & WORD
    return f"multiplied two matrices of size {n} in order {order}: checksum {total}\n".encode()


def quicksort(argv: Sequence[str]) -> bytes:
    count, seed = int(argv[1]), int(argv[2]) if len(argv) > 2 else 1
    numbers = sorted(random_at(seed, place) for place in range(count))
    return f"sorted {count} numbers: checksum {checksum(numbers)}\n".encode()


def _tuples(seed: int, count: int, keys: int) -> Iterator[tuple[int, int]]:
    for index in range(count):
        yield 1 + random_at(seed, 2 * index) % keys, random_at(seed, 2 * index + 1) | 1


def pquicksort(argv: Sequence[str]) -> bytes:
    """What quicksort prints, however many threads there are."""
    return quicksort(argv[:3])


def pmatmul(argv: Sequence[str]) -> bytes:
    """What matmul prints, however many threads there are."""
    return matmul([*argv[:3], "--order", "ikj"])


def hashjoin(argv: Sequence[str]) -> bytes:
    built, probed, seed = int(argv[1]), int(argv[2]), int(argv[3]) if len(argv) > 3 else 1
    payloads = defaultdict(list)
    for key, payload in _tuples(seed, built, built):
        payloads[key].append(payload)
    pairs = [
        random_at(payload + 3 * other, key)
        for key, other in _tuples(seed ^ WORD, probed, built)
        for payload in payloads.get(key, ())
    ]
    return f"joined {built} tuples with {probed}: {len(pairs)} matches, checksum {sum(pairs) & WORD}\n".encode()


def _pages(pattern: str, pages: int, steps: int, seed: int, chance: Iterator[int]) -> Iterator[tuple[int, int]]:
    """The page and the word of each step; `chance` is shared with whoever decides what is written."""
    shares = list(accumulate((1 << 32) // (page + 1) for page in range(pages))) if pattern == "zipf" else []
    for step in range(steps):
        if pattern == "sequential":
            yield step // 64 % pages, step % 64 * 8
            continue
        if pattern == "loop":
            page = step % pages
        elif pattern == "zipf":
            page = bisect_right(shares, next(chance) % shares[-1])
        elif pattern == "random":
            page = next(chance) % pages
        else:
            first = random_at(seed ^ WORD, step // (steps // 8 + 1)) % pages
            page = (first + next(chance) % (pages // 4 + 1)) % pages
        yield page, next(chance) % WORDS_PER_PAGE


def pagewalk(argv: Sequence[str]) -> bytes:
    options = dict(zip(argv[1::2], argv[2::2], strict=True))
    pattern, pages, steps = options["--pattern"], int(options["--pages"]), int(options["--steps"])
    percent, seed = int(options.get("--write", 25)), int(options.get("--seed", 1))
    chance = random_numbers(seed)
    memory: defaultdict[tuple[int, int], int] = defaultdict(int)
    read, writes = [], 0
    for step, (page, word) in enumerate(_pages(pattern, pages, steps, seed, chance)):
        read.append(memory[page, word] ^ page)
        if next(chance) % 100 < percent:
            memory[page, word] += step + 1
            writes += 1
    summary = f"{pattern}: {steps} steps over {pages} pages, {writes} writes, checksum {checksum(read)}\n"
    return summary.encode()


def forkdemo(argv: Sequence[str]) -> bytes:
    numbers = [int(word) for word in argv[1:]]
    pages, children, seed = (*numbers, *(16, 3, 1)[len(numbers) :])
    memory = [random_at(seed, place) for place in range(pages * WORDS_PER_PAGE)]

    def write(words: list[int], first: int, member: int) -> None:
        for page in range(first, pages, 2):
            chance = random_at(seed ^ WORD, member * pages + page)
            words[page * WORDS_PER_PAGE + chance % WORDS_PER_PAGE] = chance

    lines = []
    for member in range(children + 1):
        inherited = checksum(memory)
        write(memory, 0, member)
        own = memory.copy()
        write(own, 1, member)
        who = f"child {member}" if member else "parent"
        lines.append(f"{who}: inherited {inherited}, own {checksum(own)}\n")
    return "".join(reversed(lines)).encode()


def prodcons(argv: Sequence[str]) -> bytes:
    numbers = [int(word) for word in argv[1:]]
    kilobytes, seed = (*numbers, *(32, 1)[len(numbers) :])
    size = kilobytes * 1024
    total = checksum([random_at(seed, place) & 0xFF for place in range(size)])
    return "".join(f"{verb} {size} bytes, checksum {total}\n" for verb in ("produced", "consumed")).encode()


def forktree(argv: Sequence[str]) -> bytes:
    """In closed form: on level d there are fanout^d nodes, and the mean of a number among siblings is (fanout + 1) / 2."""
    numbers = [int(word) for word in argv[1:]]
    depth, fanout = (*numbers, *(3, 2)[len(numbers) :])[:2]
    nodes = sum(fanout**level for level in range(depth + 1))
    result = sum(fanout**level * (2 + level * (fanout + 1)) for level in range(depth + 1)) // 2 % 100
    plural = "environment" if nodes == 1 else "environments"
    return f"a tree of depth {depth} and fan-out {fanout}: result {result} modulo 100, from {nodes} {plural}\n".encode()


def copytree(argv: Sequence[str]) -> bytes:
    """What is printed for a tree that lies on the host; nothing is copied."""
    counts: Counter[str] = Counter()
    known: set[int] = set()
    for path in (Path(argv[1]), *Path(argv[1]).rglob("*")):
        about = path.lstat()
        if path.is_symlink():
            counts["symbolic"] += 1
        elif path.is_dir():
            counts["directories"] += 1
        elif about.st_ino in known:
            counts["names"] += 1
        else:
            known.add(about.st_ino)
            counts["files"] += 1
            counts["bytes"] += about.st_size
    parts = (
        ("directories", "directory, ", "directories, "),
        ("files", "file with ", "files with "),
        ("bytes", "byte, ", "bytes, "),
        ("names", "more name, ", "more names, "),
        ("symbolic", "symbolic link copied\n", "symbolic links copied\n"),
    )
    return "".join(f"{counts[key]} {one if counts[key] == 1 else more}" for key, one, more in parts).encode()


def appelli(argv: Sequence[str]) -> bytes:
    """What is printed with --counts: how often each operation trapped, and what the pages have in the end."""
    numbers = [int(word) for word in argv[1:] if word.isdecimal()]
    pages, rounds, seed = (*numbers, *(200, 1000, 1)[len(numbers) :])
    runs, chance, written = -(-rounds // 100), random_numbers(seed), [1] * pages
    for _ in range(rounds):
        next(chance)
    for _ in range(2 * rounds):
        written[next(chance) % pages] += 1
    for _ in range(2 * runs):
        first = next(chance) % (pages - 99)
        written[first + next(chance) % 100] += 1
    other = next(chance) % pages
    for _ in range(rounds):
        other = (other + 1 + next(chance) % (pages - 1)) % pages
        written[other] += 1
    for _ in range(runs):
        first = next(chance) % (pages - 99)
        for page in range(100):
            next(chance)
            written[first + page] += 1
    rows = {
        "dirty": (rounds, 0),
        "trap": (rounds, rounds),
        "prot1": (rounds, rounds),
        "prot100": (100 * runs, 0),
        "unprot": (100 * runs, 0),
        "appel1": (rounds, rounds),
        "appel2": (100 * runs, 100 * runs),
    }
    lines = ["operation           -  operations   traps"]
    lines += [f"{name}{'-':>{20 - len(name)}}{operations:12}{traps:8}" for name, (operations, traps) in rows.items()]
    lines.append(f"every page has what was written to it, checksum {checksum(written)}")
    return "".join(f"{line}\n" for line in lines).encode()


PROGRAMS: dict[str, Callable[[Sequence[str]], bytes]] = {
    "hello": hello,
    "wordfreq": wordfreq,
    "matmul": matmul,
    "quicksort": quicksort,
    "pmatmul": pmatmul,
    "pquicksort": pquicksort,
    "hashjoin": hashjoin,
    "pagewalk": pagewalk,
    "forkdemo": forkdemo,
    "prodcons": prodcons,
    "forktree": forktree,
    "copytree": copytree,
    "appelli": appelli,
}
MEASURING = {"roundtrips", "convoy", "registers", "spin"}
"""Programs that print cycles, or what comes of switches; of these, those that include exo.h do not run on the host."""


def expected_output(argv: Sequence[str]) -> bytes:
    """What the program named by the first argument prints.  Raises KeyError if there is no such program."""
    return PROGRAMS[argv[0]](argv)
