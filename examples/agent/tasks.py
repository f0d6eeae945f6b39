"""Writes tasks: who needs which two things. `python tasks.py > tasks.jsonl`

A task of `test` is never asked in `train`: there others want these two things, or this person wants them in the other
order. What is wanted in `combined` is never wanted together in `train` at all. The workshop is always the same one; the
model is not shown it, and finds out by opening drawers where things are.
"""

import itertools
import json
import random
import zlib

NAMES = ("Ada", "Bea", "Cal", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Leo")
WORKSHOP = {
    "hammer": "red",
    "glue": "red",
    "nails": "blue",
    "saw": "blue",
    "brush": "green",
    "rope": "green",
    "drill": "white",
    "tape": "white",
}
DRAWERS = tuple(dict.fromkeys(WORKSHOP.values()))


def tasks():
    """All tasks: two things out of two drawers, in both orders, for everybody."""
    for name, *wanted in itertools.product(NAMES, WORKSHOP, WORKSHOP):
        if WORKSHOP[wanted[0]] != WORKSHOP[wanted[1]]:
            question = f"{name} needs the {wanted[0]} and the {wanted[1]}."
            yield {"split": split(question, wanted), "question": question, "wanted": wanted, "workshop": WORKSHOP}


def split(question, wanted):
    """A fifth of the pairs, and of the other tasks a fifth, are held out."""
    if zlib.crc32(" ".join(sorted(wanted)).encode()) % 5 == 0:
        return "combined"
    return "test" if zlib.crc32(question.encode()) % 5 == 0 else "train"


if __name__ == "__main__":
    shuffled = list(tasks())
    random.Random(0).shuffle(shuffled)
    for task in shuffled:
        print(json.dumps(task))
