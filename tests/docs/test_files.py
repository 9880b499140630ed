"""What pages have as files, run as they say: the service of the tutorial, and a reader's own tests."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.docs.pages import blocks_of

DOCS = Path(__file__).parents[2] / "docs"


def write_files(page: Path, folder: Path) -> None:
    """Write the files of a page into a folder."""
    for block in blocks_of(page):
        if block.file is not None:
            (folder / block.file).write_text(block.code, encoding="utf-8")


async def test_the_tutorials_service_answers_as_printed_and_stops_cleanly(cluster, tmp_path):
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    [(text, answer)] = re.findall(r'curl -s --data "(.*)" localhost:8000/summary\n```\n+```text\n(.*)\n```', page)
    write_files(DOCS / "tutorial.md", tmp_path)
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "serve:app", "--port", "0"),
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": cluster, "RAY_LOG_TO_DRIVER": "0"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    log = ""
    try:
        assert service.stderr is not None
        while not (running := re.search(r"running on http://\S*:(\d+)", log)):
            line = (await service.stderr.readline()).decode()
            assert line, f"the service ended:\n{log}"
            log += line

        def ask(body: str) -> tuple[int, str]:
            request = urllib.request.Request(
                f"http://127.0.0.1:{running[1]}/summary", body.encode(), method="POST"
            )
            try:
                with urllib.request.urlopen(request, timeout=20) as response:
                    return response.status, response.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()

        answers = await asyncio.gather(*(asyncio.to_thread(ask, body) for body in (text, text, "Too short.")))
        service.send_signal(signal.SIGINT)
        rest = (await service.stderr.read()).decode()
        await service.wait()
    finally:
        if service.returncode is None:
            service.kill()
    assert [code for code, _ in answers] == [200, 200, 422]
    assert answers[0][1] == answers[1][1] == answer
    assert "too few" in json.loads(answers[2][1])["error"]
    assert service.returncode == 0, log + rest
    assert "Application shutdown complete" in rest
    assert "Traceback" not in log + rest


def test_a_readers_own_tests_pass_as_printed(tmp_path):
    page = (DOCS / "howto" / "testing.md").read_text(encoding="utf-8")
    [passed] = re.findall(r"^(\d+ passed) in ", page, re.MULTILINE)
    write_files(DOCS / "howto" / "testing.md", tmp_path)
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert passed in tests.stdout


def test_files_that_no_page_runs_are_run_here():
    pages = {
        page.name
        for page in [DOCS.parent / "README.md", *DOCS.rglob("*.md")]
        for block in blocks_of(page)
        if block.file is not None and block.output is None and block.not_run is None
    }
    assert pages == {"tutorial.md", "testing.md"}
