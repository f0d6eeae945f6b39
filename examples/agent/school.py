"""What the example's small model has watched before it starts: two colleagues in the workshop.

    journeyman school examples/agent/school.py:Watched --out runs/watched --model tiny,width=64,layers=2

A model that was trained on tool calls needs no such thing. This one knows no language at all; here it sees how calls
are written and how a talk goes, as the server puts both. One colleague fetches single things, and knows where they are.
The other fetches two at once, and in four cases of five opens whatever drawer comes to mind. How to fetch two things is
left to trial and error, and no held-out task is watched.
"""

import itertools
import json
import random

from agent import OPEN, SPARE
from tasks import DRAWERS, NAMES, WORKSHOP, tasks

from journeyman import Env, Job, Message, StepResult, Task
from journeyman.serve.tools import Call, CallFormat

SHOWN = f"{OPEN['function']['name']}({', '.join(OPEN['function']['parameters']['properties'])})"
"""How a tiny model's chat template shows the tool."""
CARE = 0.2
"""How often the second colleague thinks; else the drawer is drawn, and may be the right one."""
PAIRS = [task for task in tasks() if task["split"] == "train"]
SINGLE = [
    {"question": f"{name} needs the {thing}.", "wanted": [thing]} for name, thing in itertools.product(NAMES, WORKSHOP)
]


class Watched(Job):
    """The two at work."""

    about = "two colleagues in a workshop, one careful, one careless"
    max_turns = 2 + SPARE
    splits = {"train": 10_000}  # noqa: RUF012

    def task(self, split, index):
        lessons, care = (PAIRS, CARE) if index % 2 else (SINGLE, 1.0)
        task = lessons[index // 2 % len(lessons)]
        messages = (Message("system", SHOWN), Message("user", task["question"]))
        return Task(self.name, split, index, messages, {"wanted": task["wanted"], "care": care, "seed": index})

    def env(self, task):
        return Workshop(task.data)


class Workshop(Env):
    """Opens drawers; the expert is the colleague."""

    def __init__(self, data):
        self.missing, self.care, self.rng = list(data["wanted"]), data["care"], random.Random(data["seed"])

    def expert(self):
        drawer = WORKSHOP[self.missing[0]] if self.rng.random() < self.care else self.rng.choice(DRAWERS)
        return CallFormat().spell(Call("open", json.dumps({"drawer": drawer})))

    def step(self, reply):
        calls = CallFormat().parse(reply, {"open"}).calls
        drawer = json.loads(calls[0].arguments).get("drawer") if calls else None
        inside = [thing for thing in self.missing if WORKSHOP[thing] == drawer]
        self.missing = [thing for thing in self.missing if thing not in inside]
        done = not self.missing
        return StepResult(" and ".join(inside) or "nothing", float(done), terminated=done)
