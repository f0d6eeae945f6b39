"""What the example's small model has watched before it starts: a colleague who hardly knows the workshop.

    journeyman school examples/agent/school.py:Watched --out runs/watched --model tiny,width=64,layers=2

A model that was trained on tool calls needs no such thing. This one knows no language at all; here it sees how calls
are written and how a talk goes, as the server puts both. In most cases the colleague opens whatever drawer comes to
mind. Where things are is left to trial and error, and so is all that is wanted together in the held-out tasks.
"""

import json
import random

from agent import OPEN, SPARE
from tasks import DRAWERS, WORKSHOP, tasks

from journeyman import Env, Job, Message, StepResult, Task
from journeyman.serve.tools import Call, CallFormat, described

KNOWN = 0.4
"""How often the colleague knows; else the drawer is drawn, and may be the right one."""
TASKS = [task for task in tasks() if task["split"] == "train"]


class Watched(Job):
    """The colleague at work."""

    about = "a colleague who hardly knows the workshop"
    max_turns = 2 + SPARE
    splits = {"train": 10_000}  # noqa: RUF012

    def task(self, split, index):
        task = TASKS[index % len(TASKS)]
        messages = (Message("system", described([OPEN])), Message("user", task["question"]))
        return Task(self.name, split, index, messages, {"wanted": task["wanted"], "seed": index})

    def env(self, task):
        return Workshop(task.data)


class Workshop(Env):
    """Opens drawers; the expert is the colleague."""

    def __init__(self, data):
        self.missing, self.rng = list(data["wanted"]), random.Random(data["seed"])

    def expert(self):
        drawer = WORKSHOP[self.missing[0]] if self.rng.random() < KNOWN else self.rng.choice(DRAWERS)
        return CallFormat().spell(Call("open", json.dumps({"drawer": drawer})))

    def step(self, reply):
        calls = CallFormat().parse(reply, {"open"}).calls
        drawer = json.loads(calls[0].arguments).get("drawer") if calls else None
        inside = [thing for thing in self.missing if WORKSHOP[thing] == drawer]
        self.missing = [thing for thing in self.missing if thing not in inside]
        done = not self.missing
        return StepResult(" and ".join(inside) or "nothing", float(done), terminated=done)
