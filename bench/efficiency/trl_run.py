"""TRL's GRPOTrainer on one of our jobs, in a process of its own, as a user would start it.

    python -m bench.efficiency.trl_run REQUEST FOLDER          runs.py calls this

Its settings are its own (GRPOConfig's defaults: loss `dapo`, rewards scaled by their group, no reference model), but
for what a comparison fixes: as many prompts and completions a step as ours, in the same order, each completion as long
as the job allows, a learning rate and a number of updates a step that are tuned as ours are. That rate stays constant
after its warm-up, as ours does; by default it would fall to 0 at the end of whatever budget is given. Float32 without
gradient checkpointing is its fastest way on a processor with such a small model (bench/throughput.py measures both).

Its clock runs from the start of a step to its end; weights are kept while it stands.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from journeyman.jobs import resolve
from journeyman.model.render import Renderer


def arguments(request: dict[str, Any], max_completion_length: int, folder: Path) -> dict[str, Any]:
    """What GRPOConfig is given."""
    settings, step = request["settings"], request["tasks"] * request["repeats"]
    parts = int(settings["minibatches"])
    return {
        "output_dir": str(folder / "trl"), "seed": request["seed"],
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "per_device_train_batch_size": step // parts, "steps_per_generation": parts,
        "num_generations": request["repeats"], "max_completion_length": max_completion_length,
        "max_steps": request["steps"] * parts, "shuffle_dataset": False,
        "learning_rate": settings["learning_rate"], "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 10,
        "logging_strategy": "no", "save_strategy": "no", "report_to": [], "disable_tqdm": True,
    }  # fmt: skip


def practised(size: int, seed: int, steps: int, tasks: int) -> list[int]:
    """The tasks that a run of ours with one job draws with this seed (`practice` in journeyman/stages.py)."""
    picks = [np.random.default_rng((seed, s, 0, 0)).choice(size, tasks, replace=size < tasks) for s in range(steps)]
    return [int(index) for index in np.concatenate(picks)]


def train(request: dict[str, Any], folder: Path) -> None:
    """Run the trainer; keep its weights every so many steps, and what was spent by then."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    job = resolve(request["job"])
    tokenizer = AutoTokenizer.from_pretrained(request["model"])
    renderer = Renderer(tokenizer)
    parts = int(request["settings"]["minibatches"])
    chosen = practised(job.splits["train"], request["seed"], request["steps"], request["tasks"])
    tasks = {index: job.task("train", index) for index in chosen}
    rows: list[dict[str, Any]] = []
    for index in chosen:
        messages = [{"role": m.role, "content": m.content} for m in tasks[index].messages]
        rows.append({"prompt": messages, "index": index})
        theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert theirs == renderer.open(tasks[index].messages), "both sides must read the same prompt"
    spent = {"trajectories": 0, "tokens": 0, "minutes": 0.0}

    def reward(completion_ids: list[list[int]], index: list[int], **_: Any) -> list[float]:
        spent["trajectories"] += len(index)
        spent["tokens"] += sum(len(renderer.open(tasks[i].messages)) for i in index) + sum(map(len, completion_ids))
        answers = [renderer.text(ids) for ids in completion_ids]
        return [job.env(tasks[i]).step(answer).reward for i, answer in zip(index, answers, strict=True)]

    class Keeper(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            spent["minutes"] += (time.perf_counter() - self.start) / 60
            step, left = divmod(state.global_step, parts)
            if not left and (step % request["keep_every"] == 0 or step == request["steps"]):
                trainer.model.save_pretrained(folder / str(step))
                tokenizer.save_pretrained(folder / str(step))
                with (folder / "spent.jsonl").open("a") as file:
                    file.write(json.dumps({"step": step, **spent}) + "\n")

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(request["model"]),
        reward_funcs=reward,
        args=GRPOConfig(**arguments(request, job.max_reply_tokens, folder)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Keeper()],
    )
    trainer.train()


def main() -> None:
    os.environ.pop("THP_MEM_ALLOC_ENABLE", None)  # ours; torch reads it at its first large tensor
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True)
    train(json.loads(sys.argv[1]), folder)


if __name__ == "__main__":
    main()
