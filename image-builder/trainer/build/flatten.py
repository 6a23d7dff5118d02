"""Replaces the symbolic links of a root file system, so that packers which know only files take it whole and once.

    python3 build/flatten.py ROOT

Needs root (it asks the tree's own ldconfig which library names are wanted). Links to folders go, among them those of
the merged /usr; the two names that programs are compiled with, /lib64/ld-linux-x86-64.so.2 and /bin/sh, become files. A
library with several names keeps those that the dynamic linker looks for. Whatever else has two names becomes two files.
"""

import os
import re
import subprocess
import sys

# Names outside /usr that are written into programs and scripts.
COMPILED_IN = {"lib64": ("ld-linux-x86-64.so.2",), "bin": ("sh",), "sbin": (), "lib": ()}
LIBRARY = re.compile(r"\.so(\.|$)")
# A second name for a library up to this size is cheaper than finding out whether anybody opens it by that name, as torch
# does with one of its own.
SMALL_BYTES = 1 << 20


def inside(root: str, path: str, depth: int = 0) -> str | None:
    """Where a path of the tree really is, with absolute links taken from the tree's own root; None if nowhere."""
    if depth > 40:
        return None
    place = root
    parts = [part for part in path.split("/") if part not in ("", ".")]
    while parts:
        part = parts.pop(0)
        if part == "..":
            place = os.path.dirname(place) if place != root else root
            continue
        here = os.path.join(place, part)
        if os.path.islink(here):
            target = os.readlink(here)
            start = "" if target.startswith("/") else os.path.relpath(place, root)
            return inside(root, "/".join([start, target, *parts]), depth + 1)
        if not os.path.lexists(here):
            return None
        place = here
    return place


def linker_paths(root: str) -> set[str]:
    """Where the dynamic linker looks for libraries by name, relative to the root."""
    listing = subprocess.run(["chroot", root, "/usr/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    found = set()
    for line in listing.splitlines():
        path = line.rpartition(" => ")[2].strip()
        folder = inside(root, os.path.dirname(path)) if path.startswith("/") else None
        if folder:
            found.add(os.path.relpath(os.path.join(folder, os.path.basename(path)), root))
    return found


def links_of(root: str) -> list[str]:
    """All links, relative to the root."""
    found = []
    for folder, folders, names in os.walk(root):
        # What is mounted there is not of the tree.
        folders[:] = [name for name in folders if not os.path.ismount(os.path.join(folder, name))]
        for name in [*folders, *names]:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                found.append(os.path.relpath(path, root))
    return sorted(found)


def flatten(root: str) -> None:
    """Rewrites the tree."""
    wanted = linker_paths(root)
    links = links_of(root)
    targets = {link: inside(root, link) for link in links}
    compiled_in = {
        os.path.join(folder, name): inside(root, f"{folder}/{name}") for folder, names in COMPILED_IN.items() for name in names
    }
    unneeded = set()
    for link, target in targets.items():
        os.remove(os.path.join(root, link))
        if target is None or not os.path.isfile(target) or link.split("/")[0] in COMPILED_IN:
            continue
        large = LIBRARY.search(os.path.basename(link)) and os.path.getsize(target) > SMALL_BYTES
        # A large library stays once, under the name and in the place where the linker looks.
        if large and link not in wanted:
            continue
        os.link(target, os.path.join(root, link))
        if large and os.path.relpath(target, root) not in wanted:
            unneeded.add(target)
    for target in unneeded:
        os.remove(target)
    for path, target in compiled_in.items():
        place = os.path.join(root, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.link(target, place)
    # The cache must not name the folders that are gone; without -X, links would come back.
    subprocess.run(["chroot", root, "/usr/sbin/ldconfig", "-X"], check=True)


if __name__ == "__main__":
    flatten(os.path.realpath(sys.argv[1]))
