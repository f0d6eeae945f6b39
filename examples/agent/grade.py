"""Grades an attempt: 1 if the agent found everything that was wanted, else 0."""

import json
import sys

attempt = json.load(sys.stdin)
print(float(set(json.loads(attempt["stdout"])) == set(attempt["task"]["wanted"])))
