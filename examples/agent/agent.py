"""Fetches what somebody needs from the drawers of a workshop, by asking a model which one to open.

    echo '{"question": "Ada needs the glue.", "wanted": ["glue"], "workshop": {"glue": "red"}}' | python agent.py

It speaks to whatever endpoint OPENAI_BASE_URL names, and prints what it has found.
"""

import json
import sys

from openai import OpenAI

OPEN = {
    "type": "function",
    "function": {
        "name": "open",
        "parameters": {"type": "object", "properties": {"drawer": {"type": "string"}}, "required": ["drawer"]},
    },
}
SPARE = 1
"""Drawers that may be opened in vain."""


def fetch(client, question, wanted, workshop):
    messages = [{"role": "user", "content": question}]
    found = []
    for _ in range(len(wanted) + SPARE):
        completion = client.chat.completions.create(
            model="gpt-4o-mini", messages=messages, tools=[OPEN], max_tokens=128
        )
        reply = completion.choices[0].message
        messages.append(reply.model_dump(exclude_none=True))
        if not reply.tool_calls:
            break
        for call in reply.tool_calls:
            drawer = json.loads(call.function.arguments).get("drawer")
            inside = [thing for thing in wanted if workshop[thing] == drawer and thing not in found]
            found += inside
            messages.append({"role": "tool", "tool_call_id": call.id, "content": " and ".join(inside) or "nothing"})
        if len(found) == len(wanted):
            break
    return found


if __name__ == "__main__":
    task = json.load(sys.stdin)
    print(json.dumps(fetch(OpenAI(), task["question"], task["wanted"], task["workshop"])))
