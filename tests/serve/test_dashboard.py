"""The page, in Debian's Chromium: opened, filtered, read, answered to, on a phone, in the dark, and attacked."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from journeyman.experience.store import Store
from journeyman.model.weights import weights_digest
from journeyman.release.evidence import Sample
from journeyman.release.gate import GateConfig, Power, judge
from journeyman.release.registry import Registry
from journeyman.release.rollout import RolloutPlan
from journeyman.release.steering import Rollout
from journeyman.serve.keys import Keys
from tests.release.test_rollout import episodes, shadowed
from tests.serve.live import APPRENTICE, Live, judged, native, scripted

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
expect: Any = playwright.expect
expect.set_options(timeout=30_000)
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
ATTACK = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script><svg onload='window.hacked=1'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # tests may run as root
        yield opened
        opened.close()


@pytest.fixture
def pages(browser: Any) -> Iterator[Any]:
    """Opens a page; at the end, that nothing went wrong on any, and that none spoke to anybody else."""
    opened: list[tuple[Any, str, list[str]]] = []

    def open_(url: str, path: str = "/", *, size: dict[str, int] = DESK, scheme: str = "light") -> Any:
        page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("request", lambda sent: wrong.append(sent.url) if not sent.url.startswith(url) else None)
        opened.append((page, url, wrong))
        page.goto(f"{url}{path}")
        return page

    yield open_
    for page, _, wrong in opened:
        left = [text for text in wrong if "status of 401" not in text]
        page.context.close()
        assert not left, left


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A real server with a small real model: some episodes, one of two turns, one with feedback."""
    with Live(tmp_path_factory.mktemp("served"), native(judged()), judged(), job="maze") as server:
        first = server.chat("A1 to C3", max_tokens=12).json()
        again = server.chat(
            "A1 to C3",
            first["choices"][0]["message"]["content"],
            "B1",
            headers={"journeyman-episode-id": first["episode_id"]},
            max_tokens=12,
        )
        assert again.status_code == 200, again.text
        good = server.chat("to the attic, please", max_tokens=12).json()["episode_id"]
        said = {"episode_id": good, "value": 1, "comment": "found it"}
        assert server.http.post("/v1/feedback", json=said).status_code == 201
        for number in range(3):
            server.chat(f"room {number}", max_tokens=8)
        yield server


def rows(page: Any) -> Any:
    return page.locator("a.row")


def test_open_filter_read_and_say_something_that_is_stored(live: Live, pages: Any) -> None:
    page = pages(live.url)
    expect(page.locator("h1")).to_have_text("apprentice")
    expect(page.locator(".tile")).to_have_count(4)
    page.get_by_role("link", name="Episodes", exact=True).click()
    expect(rows(page)).to_have_count(5)
    page.get_by_label("Outcome").select_option("success")
    expect(rows(page)).to_have_count(1)
    assert "outcome=success" in page.url
    page.get_by_role("button", name="Clear").click()
    expect(rows(page)).to_have_count(5)
    page.keyboard.press("/")
    page.keyboard.type("a1 TO c3")
    expect(rows(page)).to_have_count(1)
    page.keyboard.press("Enter")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator(".text .turn")).to_have_count(3)  # the prompt and two replies
    id = page.locator("code.id").inner_text()
    kept = live.store.whole(id)
    shown = "".join(page.locator(".passage.assistant .t").all_inner_texts())
    assert shown.replace("↵", "").split() == "".join(turn.reply["content"] for turn in kept.turns).split()
    page.locator(".passage.assistant .t").first.hover()
    expect(page.locator(".readout")).to_contain_text("token")
    expect(page.locator(".cursor")).to_have_attribute("visibility", "visible")
    page.get_by_role("button", name="Good").click()
    page.get_by_label("Comment").fill("just right")
    page.get_by_text("Correction, metric, turn").click()
    page.get_by_label("The answer as it should have been").fill("north")
    page.get_by_role("button", name="Keep it").click()
    expect(page.locator(".status")).to_contain_text("Stored")
    expect(page.locator(".said")).to_contain_text("just right")
    expect(page.locator(".verdict")).to_contain_text("success")
    (said,) = live.store.whole(id).feedback
    assert (said.value, said.comment, said.correction, said.source) == (1, "just right", "north", "human")
    page.reload()
    expect(page.locator(".said")).to_contain_text("just right")


def test_the_keyboard_is_enough(live: Live, pages: Any) -> None:
    page = pages(live.url)
    expect(rows(page).first).to_be_visible()
    page.keyboard.press("e")
    expect(page.locator("h1")).to_have_text("Episodes")
    expect(rows(page)).to_have_count(5)
    ids = [row.get_attribute("data-id") for row in rows(page).all()]
    for key in "jjk":
        page.keyboard.press(key)
    expect(rows(page).nth(0)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("code.id")).to_have_text(str(ids[0]))
    page.keyboard.press("j")
    expect(page.locator("code.id")).to_have_text(str(ids[1]))
    page.keyboard.press("ArrowRight")
    expect(page.locator(".t.at")).to_have_count(1)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("greatest fall")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.locator("h1")).to_have_text("Episodes")


def test_what_comes_is_shown_without_asking(live: Live, pages: Any) -> None:
    page = pages(live.url, "/#/episodes")
    expect(rows(page)).to_have_count(5)
    expect(page.locator("#pulse")).to_have_attribute("data-state", "live")
    id = live.chat("something new", max_tokens=4).json()["episode_id"]
    page.get_by_role("button", name=re.compile("new or changed")).click()
    expect(rows(page).first).to_have_attribute("data-id", id)
    live.store.erase(episodes=[id])


def test_what_a_model_writes_stays_text(tmp_path: Path, pages: Any) -> None:
    with Live(tmp_path, scripted(ATTACK, pace=None), judged(), job=ATTACK, name=ATTACK) as live:
        body = {"model": ATTACK, "messages": [{"role": "user", "content": ATTACK}], "max_tokens": 200}
        id = live.http.post("/v1/chat/completions", json=body).json()["episode_id"]
        said = {"episode_id": id, "comment": ATTACK, "correction": ATTACK, "tags": [ATTACK[:100]], "value": 0}
        assert live.http.post("/v1/feedback", json=said).status_code == 201
        for path in ("/", "/#/episodes", f"/#/episode/{id}", "/#/versions", f"/#/episodes?search={ATTACK}"):
            page = pages(live.url, path)
            expect(page.locator("main h1")).to_be_visible()
            expect(page.locator("#pulse")).to_have_attribute("data-state", "live")
            assert page.evaluate("window.hacked") is None, path
            assert page.locator("main img, main script").count() == 0
            page.context.close()
        page = pages(live.url, f"/#/episode/{id}")
        expect(page.locator(".passage.assistant")).to_contain_text(ATTACK)
        expect(page.locator(".said")).to_contain_text(ATTACK)
        assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("path", ["/", "/#/episodes", "/#/versions", "trace"])
def test_a_phone_needs_no_scrolling_sideways(live: Live, pages: Any, path: str) -> None:
    if path == "trace":
        path = f"/#/episode/{live.store.browse().episodes[-1].id}"
    page = pages(live.url, path, size=PHONE)
    expect(page.locator("main h1")).to_be_visible()
    expect(page.locator("#pulse")).to_have_attribute("data-state", "live")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("[...document.querySelectorAll('main *')].every(e => e.getBoundingClientRect().right <= 391)")


def brightness(page: Any) -> float:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


def test_dark_as_the_system_has_it_or_as_was_chosen(live: Live, pages: Any) -> None:
    page = pages(live.url, "/#/episodes", scheme="dark")
    expect(rows(page).first).to_be_visible()
    assert brightness(page) < 60
    page.get_by_role("button", name="Light or dark").click()
    assert brightness(page) > 200
    page.reload()
    expect(rows(page).first).to_be_visible()
    assert brightness(page) > 200
    page.keyboard.press("t")
    assert brightness(page) < 60
    assert brightness(pages(live.url)) > 200


def test_a_server_with_keys_is_asked_with_one(tmp_path: Path, pages: Any) -> None:
    key = Keys(tmp_path / "keys.json").add("ann")[1]
    with Live(tmp_path, scripted("north"), judged()) as live:
        live.chat("where?", headers={"Authorization": f"Bearer {key}"})
        page = pages(live.url, "/#/episodes")
        field = page.get_by_role("textbox", name="API key")
        expect(page.get_by_role("dialog")).to_contain_text("an API key is needed")
        field.fill("jm-no-such")
        page.get_by_role("button", name="Go on").click()
        expect(page.get_by_role("dialog")).to_contain_text("wrong or was revoked")
        field.fill(key)
        page.get_by_role("button", name="Go on").click()
        expect(rows(page)).to_have_count(1)
        page.reload()
        expect(rows(page)).to_have_count(1)
        assert key not in page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href")
        rows(page).first.click()
        page.get_by_role("button", name="Bad").click()
        page.get_by_role("button", name="Keep it").click()
        expect(page.locator(".status")).to_contain_text("Stored")
        (said,) = live.store.whole(live.store.browse().episodes[0].id).feedback
        assert said.value == 0 and said.key


PLAN = RolloutPlan(shares=(0.0, 0.01, 0.05, 0.25, 1.0), least=20)


def life_of(store: Store) -> None:
    """Versions with a merge and one in quarantine; one rollout that was rolled back, one that is under way."""
    registry = Registry(store)
    registry.add(weights_digest(APPRENTICE.model), "apprentice")
    registry.point("release", 1)
    for number in range(2, 5):
        registry.add(f"{number}" * 64, f"runs/maze/versions/{number}", parents=[number - 1] if number < 4 else [1, 2])
    registry.quarantine(3, "learned from a poisoned key")
    passed = judge([Sample("ability", "maze", (1.0,) * 400, (1.0,) * 400)], GateConfig(demands=("ability",)))
    for number in (2, 4):
        registry.attach(number, passed.as_dict())
    registry.note(4, "of both branches")
    rollout, rng = Rollout(store), np.random.default_rng(0)
    rollout.begin(2, PLAN, gate=20.0)
    rollout.act("advance", "it looked well")
    rollout.look(episodes(rng, 400, worse=0.5))
    rollout.begin(4, PLAN, gate=20.0, power=Power(tokens=1024, seconds=30.0, tools=()))
    rename = {2: 4, 1: 1}
    seen = [replace(one, version=rename[one.version]) for one in shadowed(rng, 60, worse=-0.05)]
    rollout.look(seen)
    seen += [replace(one, version=rename[one.version]) for one in episodes(rng, 600, worse=-0.05)]
    rollout.look(seen)


def test_a_rollout_is_shown_live(tmp_path: Path, pages: Any) -> None:
    with Store(tmp_path / "experience.sqlite") as store:
        life_of(store)
    with Live(tmp_path, scripted("north"), judged()) as live:
        page = pages(live.url, "/#/versions")
        card = page.locator(".rollout").first
        expect(card.locator("h2")).to_have_text("Version 4 after version 1")
        expect(card.locator(".steps li b")).to_have_text(["shadow", "1%", "5%", "25%", "full"])
        expect(card.locator(".steps [aria-current=step]")).to_contain_text("5%")
        expect(card.locator(".steps .done")).to_have_count(2)
        made = [event for event in live.store.events() if event.topic == "rollout"][-1].data
        (reading,) = made["readings"]
        expect(card.locator(".why")).to_have_text(made["why"])
        expect(card.locator(".readings tbody th")).to_have_text(["reward"])
        shown = card.locator(".readings tbody td:not(.draw)").all_inner_texts()
        assert shown[:3] == [f"{reading['candidate']:.3f}", f"{reading['release']:.3f}", str(reading["pairs"])]
        assert shown[3] == (f"1e{int(reading['shown'] / np.log(10))}" if reading["shown"] > np.log(1000) else shown[3])
        expect(card.locator(".decisions li b")).to_have_text(["on", "on", "begun"])
        expect(card).to_contain_text("1,024 tokens and 30 s an answer, no tools")
        page.get_by_text("1 earlier rollout").click()
        expect(page.locator(".rollout").nth(1).locator(".steps .back")).to_contain_text("1%")
        version = page.locator("article.version:not(.rollout)")
        expect(version.locator("h2")).to_have_text(["Version 4", "Version 3", "Version 2", "Version 1"])
        expect(version.nth(0)).to_contain_text("version 1, version 2")
        expect(version.nth(0)).to_contain_text("passed, 1 of 1 claim shown")
        expect(version.nth(0).locator(".tag")).to_have_text(["canary", "5% of the traffic", "cannot be served"])
        expect(version.nth(1)).to_contain_text("learned from a poisoned key")
        expect(version.nth(3).locator(".tag")).to_have_text(["release", "95% of the traffic"])
        expect(page.locator(".lineage .node")).to_have_count(4)
        expect(page.locator(".lineage .node.release")).to_contain_text("1")
        Rollout(live.store).act("roll back", "a complaint")
        expect(card.locator(".steps .back")).to_contain_text("5%")  # without asking again
        expect(card.locator(".why")).to_have_text("a complaint")
        expect(page.locator("details")).to_have_attribute("open", "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_rollout_fits_a_phone(tmp_path: Path, pages: Any, scheme: str) -> None:
    with Store(tmp_path / "experience.sqlite") as store:
        life_of(store)
    with Live(tmp_path, scripted("north"), judged()) as live:
        page = pages(live.url, "/#/versions", size=PHONE, scheme=scheme)
        expect(page.locator(".rollout").first.locator(".steps li")).to_have_count(5)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate(
            "[...document.querySelectorAll('main *')].every(e => e.getBoundingClientRect().right <= 391)"
        )
