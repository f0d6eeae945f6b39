"""What the server answers beyond OpenAI's shapes: episodes, V, exact tokens; and that all of it is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from journeyman.experience.ids import made_at
from journeyman.serve.shapes import EPISODE, VALUE
from tests.serve.live import RENDERER, Live, judged, native, scripted


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with Live(tmp_path_factory.mktemp("live"), native(judged()), judged()) as server:
        yield server


def ours(answer: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return answer["journeyman"]["choices"][index]


def test_an_answer_names_its_episode_and_its_value(live: Live) -> None:
    response = live.chat("A1 to B1")
    answer = response.json()
    assert response.status_code == 200, answer
    assert answer["object"] == "chat.completion" and made_at(answer["episode_id"]) is not None
    assert 0 < answer["value"] < 1
    assert response.headers[EPISODE] == answer["episode_id"]
    assert float(response.headers[VALUE]) == pytest.approx(answer["value"], abs=1e-5)
    assert ours(answer)["continues"] == "first" and not ours(answer)["abstained"]


def test_what_was_said_is_kept_exactly(live: Live) -> None:
    answer = live.chat("A1 to B1", seed=5, user="ann", journeyman={"return_tokens": True}).json()
    detail = ours(answer)
    kept = live.store.whole(answer["episode_id"])
    (turn,) = kept.turns
    assert turn.id == detail["turn_id"] and turn.user == "ann"
    assert turn.prompt.tolist() == detail["prompt_token_ids"] == RENDERER.encode("<|user|>A1 to B1<|end|><|assistant|>")
    assert turn.completion.tolist() == detail["token_ids"]
    np.testing.assert_allclose(turn.logprobs, detail["logprobs"], rtol=1e-6)
    assert RENDERER.text(turn.completion.tolist()) == answer["choices"][0]["message"]["content"]
    assert turn.spans[0].version == 1 and turn.spans[-1].stop == len(turn.completion)
    assert not np.isnan(turn.values).any()
    assert turn.parameters["seed"] == 5
    assert live.http.get(f"/v1/episodes/{kept.summary.id}").json()["items"][0]["token_ids"] == turn.completion.tolist()


def test_a_seed_fixes_the_answer_and_choices_differ(live: Live) -> None:
    texts = [live.chat("A1 to B1", seed=11, n=4).json()["choices"] for _ in range(2)]
    assert texts[0] == texts[1]
    assert [choice["index"] for choice in texts[0]] == [0, 1, 2, 3]
    answers = [live.chat("A1 to B1", n=8, temperature=2).json() for _ in range(2)]
    assert answers[0]["choices"] != answers[1]["choices"], "without a seed each answer is drawn anew"
    assert len({ours(answers[0], i)["turn_id"] for i in range(8)}) == 8


def test_turns_of_an_episode_are_one_trajectory(live: Live) -> None:
    first = live.chat("A1 to B1", journeyman={"return_tokens": True}).json()
    said = first["choices"][0]["message"]["content"]
    again = {"episode_id": first["episode_id"], "return_tokens": True}
    second = live.chat("A1 to B1", said, "B1", journeyman=again).json()
    assert second["episode_id"] == first["episode_id"] and ours(second)["continues"] == "next"
    whole = [*ours(first)["prompt_token_ids"], *ours(first)["token_ids"]]
    assert ours(second)["prompt_token_ids"][: len(whole)] == whole
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == len(whole)
    live.store.give(_feedback(first["episode_id"])).result()
    (trajectory,) = live.store.whole(first["episode_id"]).trajectories()
    assert int(trajectory.mask.sum()) == len(ours(first)["token_ids"]) + len(ours(second)["token_ids"])
    by_header = live.chat("A1 to B1", said, "B1", headers={EPISODE: first["episode_id"]}).json()
    assert ours(by_header)["continues"] == "branch", "the same turn again is another branch"


def _feedback(episode: str) -> Any:
    from journeyman.experience.records import Feedback

    return Feedback(episode, value=1.0)


def test_a_rewritten_conversation_is_noticed(live: Live) -> None:
    first = live.chat("A1 to B1").json()
    rewritten = live.chat("A1 to B1", "I said nothing", "B1", journeyman={"episode_id": first["episode_id"]}).json()
    assert ours(rewritten)["continues"] == "rewritten"
    assert rewritten["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    live.store.give(_feedback(first["episode_id"])).result()
    assert len(live.store.whole(first["episode_id"]).trajectories()) == 2


def test_any_of_several_choices_can_be_gone_on_from(live: Live) -> None:
    first = live.chat("A1 to B1", n=3, seed=2, temperature=1.5).json()
    for said in {choice["message"]["content"] for choice in first["choices"]}:
        further = live.chat("A1 to B1", said, "B1", journeyman={"episode_id": first["episode_id"]}).json()
        assert ours(further)["continues"] in ("next", "branch")
        assert further["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_a_session_is_an_episode(live: Live) -> None:
    names = [{"journeyman-session": name} for name in ("one", "one", "two")]
    ids = [live.chat("A1 to B1", headers=name).json()["episode_id"] for name in names]
    assert ids[0] == ids[1] != ids[2]


def test_an_episode_goes_on_after_a_restart(tmp_path: Path) -> None:
    with Live(tmp_path, scripted("north", "east")) as live:
        first = live.chat("A1 to B2", journeyman={"return_tokens": True}).json()
    with Live(tmp_path, scripted("south")) as live:
        said = first["choices"][0]["message"]["content"]
        again = {"episode_id": first["episode_id"], "return_tokens": True}
        second = live.chat("A1 to B2", said, "B1", journeyman=again).json()
    assert ours(second)["continues"] == "next"
    whole = [*ours(first)["prompt_token_ids"], *ours(first)["token_ids"]]
    assert ours(second)["prompt_token_ids"][: len(whole)] == whole


def test_below_the_threshold_it_says_that_it_is_unsure(live: Live) -> None:
    for stream in (False, True):
        sure = live.chat("A1 to B1", seed=1, journeyman={"threshold": 0.0}, stream=stream)
        unsure = live.chat("A1 to B1", seed=1, journeyman={"threshold": 1.0}, stream=stream)
        if stream:
            text = unsure.text
            assert "I am unsure" in text and '"content": "' not in text.replace('"content": ""', "")
            assert "I am unsure" not in sure.text
            continue
        message = unsure.json()["choices"][0]["message"]
        assert message["content"] is None and "I am unsure" in message["refusal"]
        assert ours(unsure.json())["abstained"]
        assert sure.json()["choices"][0]["message"]["refusal"] is None
        assert live.store.whole(unsure.json()["episode_id"]).turns[0].finish == "abstained"


@pytest.mark.parametrize("strategy", ["best", "correct", "vote"])
def test_thinking_spends_more_and_keeps_one_answer(live: Live, strategy: str) -> None:
    plain = live.chat("A1 to B1", seed=3).json()
    thought = live.chat("A1 to B1", seed=3, journeyman={"think": 4, "strategy": strategy}).json()
    assert thought["choices"][0]["message"]["content"] is not None, thought
    spent = ours(thought)["think"]["tokens"]
    assert spent >= plain["usage"]["completion_tokens"]
    if strategy == "best":
        assert thought["value"] >= plain["value"] - 1e-4
    assert len(live.store.whole(thought["episode_id"]).turns) == 1
    assert live.d.service.kept <= live.d.service.engine.slots
    assert live.chat("A1 to B1").status_code == 200, "its slots are free again"


def test_a_stream_says_what_the_whole_answer_does(live: Live) -> None:
    whole = live.chat("A1 to B1", seed=4, logprobs=True).json()["choices"][0]
    text, logprobs, finish = "", list[float](), None
    lines = live.chat("A1 to B1", seed=4, logprobs=True, stream=True, stream_options={"include_usage": True}).text
    events = [line.removeprefix("data: ") for line in lines.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert all(chunk["object"] == "chat.completion.chunk" and chunk["episode_id"] for chunk in chunks)
    assert chunks.pop()["usage"]["completion_tokens"] > 0
    for chunk in chunks:
        choice = chunk["choices"][0]
        text += choice["delta"].get("content") or ""
        logprobs += [one["logprob"] for one in (choice["logprobs"] or {"content": []})["content"]]
        finish = choice["finish_reason"] or finish
    assert text == whole["message"]["content"] and finish == whole["finish_reason"]
    assert logprobs == [one["logprob"] for one in whole["logprobs"]["content"]]
    assert 0 < chunks[-1]["value"] < 1


def test_a_stream_of_more_choices_than_slots_is_whole(tmp_path: Path) -> None:
    with Live(tmp_path, scripted("in a maze", pace=1, slots=1)) as live:
        texts = ["", "", ""]
        for event in live.chat("where?", n=3, stream=True).text.split("\n\n"):
            if event.startswith("data: {"):
                (choice,) = json.loads(event[6:])["choices"]
                texts[choice["index"]] += choice["delta"].get("content") or ""
        assert texts == ["in a maze"] * 3


def test_texts_to_stop_at_are_not_shown(tmp_path: Path) -> None:
    with Live(tmp_path, scripted("north STOP south", pace=1)) as live:
        answer = live.chat("go", stop=["STOP"]).json()["choices"][0]
        assert (answer["message"]["content"], answer["finish_reason"]) == ("north ", "stop")
        assert "STO" not in live.chat("go", stop="STOP", stream=True).text


def test_bare_text_goes_on(live: Live) -> None:
    body = {"model": "apprentice", "prompt": "<|user|>A1 to B1<|end|><|assistant|>", "max_tokens": 1, "logprobs": 0}
    answer = live.http.post("/v1/completions", json={**body, "n": 2, "seed": 1}).json()
    assert answer["object"] == "text_completion" and len(answer["choices"]) == 2
    detail = answer["choices"][0]["logprobs"]
    assert len(detail["tokens"]) == len(detail["token_logprobs"]) == len(detail["text_offset"])
    two = live.http.post("/v1/completions", json={**body, "prompt": [[5, 6], [7]], "stream": True}).text
    assert two.endswith("data: [DONE]\n\n")
    said = answer["choices"][0]["text"]
    further = {**body, "prompt": body["prompt"] + said + " and", "journeyman": {"episode_id": answer["episode_id"]}}
    assert live.http.post("/v1/completions", json=further).json()["journeyman"]["choices"][0]["continues"] != "first"
