"""A learner in service, from its first day to its second release: `make story`, five to nine minutes on two cores.

A small model knows two jobs and is served. Users ask; after each answer they say whether it was right, and now and then
what would have been. A version that somebody has damaged is proposed, and caught. Then a third job appears, of which
the model knows nothing. It learns that job from what users say, is examined, is tried unseen beside the release, then
on a few users, then on more, and becomes the release. All the while no request fails.

    python examples/story/story.py --run runs/story
    journeyman view runs/story                        look at it afterwards: the versions, the rollout, every episode

Everything here is what `journeyman` does for any model; the users alone are made up. They are threads that speak to the
server by the `openai` package, and know the right answers.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from openai import OpenAI
from rich.console import Console

from journeyman import open_model, resolve
from journeyman.model.load import save

HERE = Path(__file__).parent
LETTERS = HERE / "letters.py"
OLD, NEW = (f"{LETTERS}:Sort", f"{LETTERS}:Reverse"), f"{LETTERS}:Rise"
SHAPE = "tiny,width=64,layers=2,heads=2,vocab=300,positions=128"
USERS, THREADS, PAUSE = 2000, 3, 0.2
SEEN = 10
"""Seconds that the new release is watched for."""
CORRECTS = 0.5
"""How often a user who got a wrong answer says what would have been right."""
NOISE = 0.2
"""Of the broken candidate's weights, in standard deviations of each matrix."""
console = Console()


def journeyman(*words: str | Path, **more: Any) -> subprocess.Popen[bytes]:
    """A command of ours."""
    return subprocess.Popen([sys.executable, "-m", "journeyman", *map(str, words)], **more)


def say(text: str, style: str = "") -> None:
    """A line of the story, with the time."""
    console.print(f"[dim]{time.strftime('%M:%S', time.gmtime(time.monotonic() - BEGUN))}[/]  {text}", style=style)


BEGUN = time.monotonic()


@dataclass
class Crowd:
    """The users, all of them."""

    address: str
    jobs: list[str]
    ending: threading.Event = field(default_factory=threading.Event)
    answered: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    """By job and version, whether answers were right."""
    failures: list[str] = field(default_factory=list)

    def live(self, number: int) -> None:
        """One thread of users, until the end."""
        client = OpenAI(base_url=f"{self.address}/v1", api_key="none", max_retries=0)
        rng, known = random.Random(number), {name: resolve(name) for name in (*OLD, NEW)}
        while not self.ending.wait(PAUSE * rng.expovariate(1)):
            name = rng.choice(self.jobs)
            try:
                self.ask(client, name, known[name], f"user {rng.randrange(USERS)}", rng)
            except Exception as error:  # whatever it is, traffic has failed
                self.failures.append(f"{type(error).__name__}: {error}")

    def ask(self, client: OpenAI, name: str, job: Any, user: str, rng: random.Random) -> None:
        """Ask for one thing, and say how good the answer was."""
        task = job.task("train", rng.randrange(50_000, 100_000))
        env = job.env(task)
        right = env.expert()
        reply = client.chat.completions.create(
            model="story",
            messages=[{"role": "user", "content": task.messages[-1].content}],
            max_tokens=16,
            user=user,
            extra_body={"journeyman": {"job": name}},
        )
        episode, ours = reply.model_extra["episode_id"], reply.model_extra["journeyman"]["choices"][0]
        earned = env.step(reply.choices[0].message.content or "").reward
        said = {"episode_id": episode, "source": "human", "user": user}
        client.post("/feedback", body={**said, "value": earned}, cast_to=object)
        if not earned and rng.random() < CORRECTS:
            client.post("/feedback", body={**said, "correction": right}, cast_to=object)
        self.answered[name, ours["versions"][0]["version"]].append(earned)

    def table(self) -> list[str]:
        """Lines: how each version did at each job."""
        return [
            f"  version {version}  {name.rpartition(':')[2]:<8} {sum(done) / len(done):>6.1%} of {len(done):,}"
            for (name, version), done in sorted(self.answered.items(), key=lambda item: (item[0][1], item[0][0]))
        ]


class Watch:
    """What the improver does, from the lines that it writes."""

    def __init__(self, run: Path) -> None:
        self.file, self.read = run / "improve.jsonl", 0

    def news(self) -> list[dict[str, Any]]:
        """Lines that are new."""
        if not self.file.exists():
            return []
        lines = [line for line in self.file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        new, self.read = lines[self.read :], len(lines)
        return [json.loads(line) for line in new]

    def until(self, *ends: str, minutes: float, crowd: Crowd) -> dict[str, Any]:
        """Tell what happens until one of these does."""
        deadline = time.monotonic() + 60 * minutes
        while time.monotonic() < deadline:
            for record in self.news():
                told(record)
                if record["what"] in ends:
                    return record
            if crowd.failures:
                raise SystemExit(f"traffic failed: {crowd.failures[0]}")
            time.sleep(0.5)
        raise SystemExit(f"after {minutes} minutes there is none of {', '.join(ends)}")


def told(record: dict[str, Any]) -> None:
    """What the improver does, in a line."""
    match record["what"]:
        case "learning" if "outcomes" in record:
            counts = ", ".join(f"{record[k]:,} {k}" for k in ("outcomes", "pending", "lessons", "pairs") if record[k])
            say(f"[cyan]the improver learns[/] from {record['episodes']:,} episodes: {counts}")
        case "learning" if record.get("part") == "practise":
            pass
        case "learning":
            shown = {k: v for k, v in record.items() if k not in ("kind", "what", "at", "part", "seconds")}
            numbers = ", ".join(f"{k.rpartition('/')[2]} {v:.3g}" for k, v in list(shown.items())[:3])
            say(f"  {record['part']}: {numbers}", "dim")
        case "proposed":
            say(f"[bold]version {record['version']} is proposed[/], learned from {record['episodes']:,} episodes")
        case "examining" if "verdict" in record:
            claims = f"{record['shown']} of {record['claims']} claims shown"
            say(f"  {record['episodes']:,} episodes played against the release: {claims}, {record['verdict']}", "dim")
        case "judged":
            say(f"[bold]the gate says of version {record['version']}: {record['verdict']}[/]")
            for reason in record["reasons"][:4]:
                say(f"  {reason}", "yellow")
        case "releasing" if "share" in record:
            say(f"[bold]version {record['version']} {record['decision']}: {record['share']:.0%}[/] ({record['why']})")
        case "releasing":
            say(f"version {record['version']} answers unseen beside the release (shadow)")
        case "released":
            say(f"[bold green]version {record['version']} is the release[/]")
        case "held back":
            say(f"[bold yellow]version {record['version']} is held back[/]: {record['why']}")
        case _:
            pass


def schooled(run: Path) -> None:
    """The model that knows two jobs, with its V."""
    say("a model of 0.1 million weights learns two jobs: to sort letters, and to reverse them")
    school = ("--school.demonstrations", "2000", "--school.updates", "1000", "--school.batch", "48")
    size = ("--model", SHAPE, "--context", "128", "--steps", "6", "--exam.tasks", "200")
    run.parent.mkdir(parents=True, exist_ok=True)
    with (run.parent / f"{run.name}.log").open("w") as log:
        if journeyman("learn", *OLD, "--run", run, *school, *size, stdout=log, stderr=log).wait():
            raise SystemExit(f"it did not learn: see {log.name}")


def up(run: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Serve it, and keep it learning."""
    port, admin = free(), free()
    improver = ("--improve.threads", "1", "--improve.context", "128", "--improve.least", "1600", "--improve.look", "1")
    exam = ("tasks", "400"), ("rounds", "20"), ("beside", "150")
    gate = (word for option, value in exam for word in (f"--improve.examination.{option}", value))
    release = ("--improve.release.shares", "0", "0.2", "0.5", "1")
    place = ("--port", port, "--admin-port", admin, "--name", "story", "--context", "128", "--slots", "16")
    words = ("up", run, *place, "--improve.jobs", *OLD, NEW, *improver, *gate, *release)
    log = (run / "up.log").open("a")
    server = journeyman(*words, stdout=log, stderr=log)
    for _ in range(240):
        with socket.socket() as knock:
            if not knock.connect_ex(("127.0.0.1", port)):
                return server, f"http://127.0.0.1:{port}"
        if server.poll() is not None:
            break
        time.sleep(0.5)
    raise SystemExit(f"the server did not start: see {run / 'up.log'}")


def free() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def broken(source: str, folder: Path) -> Path:
    """A copy whose weights somebody has damaged."""
    loaded = open_model(source)
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in loaded.model.parameters():
            weights += NOISE * weights.std() * torch.randn_like(weights)
    save(folder, loaded.model, loaded.tokenizer, loaded.value, loaded.calibration)
    return folder


def play(run: Path) -> None:
    """The story."""
    if not (run / "model").exists():
        schooled(run)
    server, address = up(run)
    say(f"it is served at {address}, and {USERS} users come; the improver works beside it")
    crowd, watch = Crowd(address, list(OLD)), Watch(run)
    threads = [threading.Thread(target=crowd.live, args=(n,), daemon=True) for n in range(THREADS)]
    try:
        for thread in threads:
            thread.start()
        say("a version that somebody has damaged is proposed")
        journeyman("improve", run, "--propose", broken(str(run), run / "damaged")).wait()
        watch.until("held back", minutes=4, crowd=crowd)
        crowd.jobs.append(NEW)
        say("[bold]a new job appears[/]: users ask for each letter's next one, and the model knows nothing of it")
        watch.until("released", minutes=9, crowd=crowd)
        time.sleep(SEEN)
    finally:
        crowd.ending.set()
        for thread in threads:
            thread.join(10)
        server.terminate()
        server.wait(60)
    answers = sum(map(len, crowd.answered.values()))
    say(f"[bold]{answers:,} answers, {len(crowd.failures)} requests failed[/]; how often users found them right:")
    for line in crowd.table():
        console.print(line, highlight=False)
    console.print(f"look at it: journeyman view {run}; journeyman release list {run}")
    if crowd.failures:
        raise SystemExit(crowd.failures[0])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--run", type=Path, default=Path("runs/story"), help="its folder; one that is there is served")
    play(options.parse_args().run)


if __name__ == "__main__":
    main()
