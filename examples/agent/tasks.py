"""Writes tasks: who needs which two things. `python tasks.py > tasks.jsonl`

The things wanted in `test` are never wanted together in `train`. The workshop is always the same one; the model is not
shown it, and finds out by opening drawers where things are.
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
            pair = " ".join(sorted(wanted))
            yield {
                "split": "test" if zlib.crc32(pair.encode()) % 5 == 0 else "train",
                "question": f"{name} needs the {wanted[0]} and the {wanted[1]}.",
                "wanted": wanted,
                "workshop": WORKSHOP,
            }


if __name__ == "__main__":
    shuffled = list(tasks())
    random.Random(0).shuffle(shuffled)
    for task in shuffled:
        print(json.dumps(task))
