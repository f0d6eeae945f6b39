"""The pictures of the web page: `python docs/pictures/take.py runs/demo`, of a run that is finished.

A copy of the run is served, asked a little, and looked at in Chromium: in the light, in the dark, on a phone. The
episode is the one that the run's report would tell of as a failure that V saw coming, else as a recovery.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import sync_playwright

from journeyman.report.run import read_run
from journeyman.report.stories import Story, read_candidates, tell
from journeyman.types import Trajectory

FOLDER = Path(__file__).parent
COLOURS = 160
DESK, PHONE = {"width": 1240, "height": 800}, {"width": 390, "height": 844}
PICTURES = (
    ("overview", "/", "light", DESK),
    ("trace-light", "episode", "light", DESK),
    ("trace-dark", "episode", "dark", DESK),
    ("trace-phone", "episode", "light", PHONE),
)


def worth_showing(run: Path) -> Trajectory:
    """The episode to show."""

    def rank(story: Story) -> tuple[int, int]:
        order = ("A failure it saw coming", "A recovery")
        return (order.index(story.title) if story.title in order else len(order), len(story.episodes[0][1].turns))

    return min(tell(read_candidates(read_run(run))), key=rank).episodes[-1][1]


@contextmanager
def served(run: Path) -> Iterator[str]:
    """The address at which a run is served, by a process of its own."""
    command = [sys.executable, "-m", "journeyman", "serve", str(run), "--port", "0", "--admin-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            told = ""
            while not (found := re.search(r"(http://[\d.:]+)/v1", told)):
                line = server.stderr.readline()
                assert line, f"it did not start: {told}"
                told += line
            yield found[1]
        finally:
            server.terminate()
            server.communicate()


def use(url: str, episode: Trajectory) -> None:
    """A little traffic, and a word of feedback."""
    with httpx.Client(base_url=url, timeout=120) as client:
        model = client.get("/v1/models").json()["data"][0]["id"]
        asked = [{"role": "user", "content": episode.task.messages[-1].content}]
        for number in range(8):
            body = {"model": model, "messages": asked, "max_tokens": 12, "n": 1 + number % 3}
            client.post("/v1/chat/completions", json=body).raise_for_status()
        said = {"episode_id": episode.id, "comment": "This is where it went wrong, and V says so.", "tags": ["read"]}
        client.post("/v1/feedback", json=said).raise_for_status()


def picture(browser: Any, url: str, scheme: str, size: dict[str, int], file: Path) -> None:
    """One picture, in few enough colours to be small."""
    context = browser.new_context(viewport=size, color_scheme=scheme, device_scale_factor=2)
    page = context.new_page()
    page.set_default_timeout(300_000)  # on a busy machine, too
    page.goto(url)
    page.locator("main h1").wait_for()
    page.locator('#pulse[data-state="live"]').wait_for()
    if "episode" in url:
        page.keyboard.press("f")  # to the greatest fall of V
        page.wait_for_timeout(1500)
        page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(2500)  # the next answer about what has come
    shot = Image.open(BytesIO(page.screenshot())).convert("RGB")
    shot.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    context.close()
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def main(run: Path) -> None:
    episode = worth_showing(run)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / run.resolve().name
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints", "reference", "serve"))
        with served(copy) as url, sync_playwright() as p:
            use(url, episode)
            browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for name, path, scheme, size in PICTURES:
                at = f"{url}/#/episode/{episode.id}" if path == "episode" else f"{url}{path}"
                picture(browser, at, scheme, size, FOLDER / f"{name}.png")
            browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
