#!/usr/bin/env python3
"""Reads what ptxas said of every CUDA kernel (*.resources, by scripts/nvcc_report.sh) and prints it
as a table. Exit code 1 when a kernel spills registers, or when attention or a matrix product is not
among them. Usage: check_kernels.py BUILD_DIRECTORY"""

import pathlib
import re
import sys

NEEDED = ["TensorAttention", "PlainAttention", "SmallProduct", "LargeProduct", "PlainProduct"]


def name_of(mangled):
    """The last name of a mangled function, and the numbers of its template."""
    best = ""
    i = 0
    while i < len(mangled):
        number = re.match(r"\d+", mangled[i:])
        if number and number.group()[0] != "0":
            begin = i + len(number.group())
            word = mangled[begin:begin + int(number.group())]
            if re.fullmatch(r"[A-Z][A-Za-z]+", word) and word not in ("DType", "Pointwise"):
                best = best or word
            i = begin + int(number.group())
        else:
            i += 1
    return best or mangled


def kernels_of(text):
    """(architecture, kernel, registers, stack, spilled bytes), one a kernel."""
    entry = None
    for line in text.splitlines():
        if match := re.search(r"Compiling entry function '(\S+)' for '(\S+)'", line):
            entry = [match.group(2), name_of(match.group(1)), 0, 0, 0]
        elif entry and (match := re.search(
                r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)):
            entry[3], entry[4] = int(match.group(1)), int(match.group(2)) + int(match.group(3))
        elif entry and (match := re.search(r"Used (\d+) registers", line)):
            entry[2] = int(match.group(1))
            yield tuple(entry)
            entry = None


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found = {}
    for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.resources")):
        for arch, name, registers, stack, spilled in kernels_of(path.read_text()):
            row = found.setdefault((arch, name), [0, 0, 0, 0])
            row[0] += 1
            row[1:] = [max(a, b) for a, b in zip(row[1:], (registers, stack, spilled))]
    print(f"{'architecture':12} {'kernel':24} variants registers stack spilled")
    for (arch, name), (variants, registers, stack, spilled) in sorted(found.items()):
        print(f"{arch:12} {name:24} {variants:8} {registers:9} {stack:5} {spilled:7}")
    problems = [f"{name} ({arch}) spills" for (arch, name), row in found.items() if row[3]]
    problems += [f"no report of {name}" for name in NEEDED if not any(n == name for _, n in found)]
    if problems:
        sys.exit("; ".join(problems))
    print(f"{sum(row[0] for row in found.values())} kernels, no register spills")


if __name__ == "__main__":
    main()
