"""The exported test in the real webMUSHRA: Chromium clicks through it by itself, and its ratings are scored.

Runs where WEBMUSHRA names a checkout of github.com/audiolabs/webMUSHRA and a Chromium is installed. The server adds one
script to the page, which plays and rates every condition, and takes the results as webMUSHRA's write.php would.
"""

import csv
import json
import os
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest
import soundfile

from spresso_jax.evaluate.mushra.listening_test import export_test
from spresso_jax.evaluate.mushra.results import LAST_FIELDS, read_results
from spresso_jax.evaluate.mushra.statistics import score

WEBMUSHRA = os.environ.get("WEBMUSHRA", "")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RATED = {"reference": 97, "fine": 70, "poor": 30, "anchor35": 20}
LISTENER = """
const rated = RATED, seen = {pages: [], shown: [], samples: [], channels: [], playing: []};
let waiting = 0, step = 0;
const timer = setInterval(() => {
  if (typeof pageManager === 'undefined' || !pageManager || pageManager.getPageIndex() < 0) return;
  if (errorHandler.errorOccurred()) { seen.errors = errorHandler.getErrors(); }
  if (document.querySelector('#container').classList.contains('ui-disabled') && !seen.errors) return;
  const page = pageManager.getCurrentPage(), kind = page.constructor.name;
  if (seen.errors || kind === 'FinishPage') {
    document.querySelectorAll('input[type=radio][value=never],input[value=headphones],input[value=no]').forEach(i => i.click());
    const send = document.querySelector('#send_results');
    if (!seen.errors && send.disabled) return;
    clearInterval(timer);
    if (!seen.errors) send.click();
    fetch('seen', {method: 'POST', body: JSON.stringify(seen)});
    return;
  }
  if (kind === 'MushraPage') {
    const names = [...document.querySelectorAll('.scales')].map(s => s.name);
    if (step < names.length) { page.btnCallbackCondition(step++); return; }
    if (page.mushraAudioControl.audioCurrentPosition === 0 && waiting++ < 50) return;
    seen.playing.push(page.mushraAudioControl.audioCurrentPosition);
    seen.pages.push(page.pageConfig.id);
    const text = document.querySelector('#container').innerText;
    seen.shown.push(...names.filter(name => name !== 'reference' && text.includes(name)));
    seen.samples.push(...page.conditions.map(c => c.audioBuffer.length));
    seen.channels.push(...page.conditions.map(c => c.audioBuffer.numberOfChannels));
    names.forEach((name, i) => $('.scales').eq(i).val(rated[name]).slider('refresh'));
    step = waiting = 0;
  }
  if (kind === 'ConsentPage') document.querySelector('#radio-choice-accept').click();
  document.querySelector('#__button_next').click();
}, 60);
"""


class Server(SimpleHTTPRequestHandler):
    """A checkout with the exported test laid over it."""

    def __init__(self, *args, exported: Path, inbox: dict, done: threading.Event, **kwargs):
        self.exported, self.inbox, self.done = exported, inbox, done
        super().__init__(*args, **kwargs)

    def log_message(self, *args):
        pass

    def translate_path(self, path):
        over = self.exported / path.split("?")[0].lstrip("/")
        return str(over) if path.startswith("/configs/") and over.is_file() else super().translate_path(path)

    def do_GET(self):
        if not self.path.startswith("/?"):
            return super().do_GET()
        page = (Path(WEBMUSHRA) / "index.html").read_text(encoding="utf-8")
        script = LISTENER.replace("RATED", json.dumps(RATED))
        self.answer(page.replace("</body>", f"<script>{script}</script></body>").encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path.endswith("write.php"):
            self.inbox["session"] = json.loads(parse_qs(body)["sessionJSON"][0])
        else:
            self.inbox["seen"] = json.loads(body)
        self.answer(b"")
        if "seen" in self.inbox:
            self.done.set()

    def answer(self, content):
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def append(path: Path, session: dict):
    """One session as webMUSHRA's write.php writes it."""
    new = not path.exists()
    participant = session["participant"]
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(("session_test_id", *participant["name"], *LAST_FIELDS))
        for trial in session["trials"]:
            for rating in trial["responses"]:
                rated = (rating["stimulus"], rating["score"], rating["time"], rating["comment"] or "")
                writer.writerow((session["testId"], *participant["response"], session["uuid"], trial["id"], *rated))


@pytest.mark.slow
@pytest.mark.skipif(not (WEBMUSHRA and CHROMIUM), reason="needs WEBMUSHRA (a checkout) and Chromium")
def test_listeners_go_through_the_whole_test_and_their_ratings_are_scored(tmp_path):
    for name, level in (("ref", 0.1), ("fine", 0.1), ("poor", 0.05)):
        (tmp_path / name).mkdir()
        for seed in range(3):
            sound = level * np.random.default_rng(seed).uniform(-1.0, 1.0, 96_000)
            soundfile.write(tmp_path / name / f"sound {seed}.wav", sound, 48_000)
    systems = {name: tmp_path / name for name in ("fine", "poor")}
    plan = export_test(tmp_path / "ref", systems, tmp_path / "test", items=2, title='Größe & "Codecs" <b>')
    results = tmp_path / "mushra.csv"
    for listener in range(2):
        inbox, done = {}, threading.Event()
        handler = partial(Server, directory=WEBMUSHRA, exported=tmp_path / "test", inbox=inbox, done=done)
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/?config={plan.config.name}"
            browser = subprocess.Popen(
                [
                    CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                    "--autoplay-policy=no-user-gesture-required", f"--user-data-dir={tmp_path / f'profile{listener}'}",
                    "--remote-debugging-port=0", address,
                ],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                assert done.wait(120), "the browser did not finish the test"
            finally:
                browser.kill()
                browser.wait()
                server.shutdown()
        seen = inbox["seen"]
        assert "errors" not in seen and seen["shown"] == []
        assert seen["pages"][0] == "training" and len(seen["pages"]) == 3 and min(seen["playing"]) > 0
        assert set(seen["channels"]) == {2} and len(set(seen["samples"])) == 1
        append(results, inbox["session"])
    record = score(read_results([results]))
    assert record["read"]["training_rows"] == 8 and len(record["listeners"]) == 2 and len(record["items"]) == 2
    for name, value in RATED.items():
        assert record["kept"]["conditions"][name]["mean"] == value
