"""The command, as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from journeyman.cli import main
from journeyman.serve.keys import Keys


@pytest.mark.slow
def test_it_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "journeyman", "serve", "apprentice", "--port", "0", "--admin-port", "0"]
    root = Path(__file__).parent.parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        url = ""
        while not url:
            line = process.stderr.readline()
            assert line, "it ended"
            found = re.search(r"served at (http://\S+)/v1", line)
            url = found[1] if found else ""
        rest: list[str] = []
        reader = threading.Thread(target=rest.extend, args=(process.stderr,))
        reader.start()
        body = {"model": "apprentice", "messages": [{"role": "user", "content": "A1 to B1"}], "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json={**body, "max_tokens": 500}, timeout=60) as stream:
            process.send_signal(signal.SIGTERM)
            said = stream.read().decode()
        assert said.endswith("data: [DONE]\n\n"), "what is under way is finished"
        assert process.wait(timeout=60) == 0
        reader.join()
    assert json.loads(rest[-1])["event"] == "stopped"


def test_keys_are_made_and_revoked_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["keys", "apprentice", "--add", "ann", "--scopes", "use"])
    text = capsys.readouterr().out.strip()
    keys = Keys(tmp_path / "runs" / "apprentice" / "serve" / "keys.json")
    key = keys.check(text)
    assert key is not None and key.scopes == ("use",)
    main(["keys", "apprentice"])
    assert json.loads(capsys.readouterr().out)["name"] == "ann"
    main(["keys", "apprentice", "--revoke", key.id])
    assert keys.check(text) is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("serve", "apprentice", "--host", "0.0.0.0"), "there is no API key"),
        (("serve", "nowhere/at/all"), "Fix:"),
        (("serve", "apprentice", "--slots", "0"), "slots must be at least 1"),
        (("keys", "apprentice", "--revoke", "x"), "unknown key"),
        (("keys", "apprentice", "--add", " "), "needs a name"),
    ],
)
def test_mistakes_are_shown_with_their_fix(
    words: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ("--port", "0", "--admin-port", "0") if words[0] == "serve" else ()
    with pytest.raises(SystemExit) as end:
        main([*words, *more])
    assert end.value.code == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()
