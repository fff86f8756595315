"""The page in a real browser: no error, no request, readable on a narrow screen."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest
from synthetic import make_run

from mtrl_conic.report.__main__ import main

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--hide-scrollbars", "--enable-logging=stderr"),
)
DARK = "--blink-settings=preferredColorScheme=0"
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser on PATH (one of {', '.join(NAMES)})")

MEASURE = """
const frame = document.getElementById("frame"), page = frame.contentDocument, root = page.documentElement;
const style = (element) => frame.contentWindow.getComputedStyle(element);
const scale = (text) => Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b);
const inBox = (element) => element.closest(".scroll, .wide") !== null;
const beyond = [...page.body.querySelectorAll("*")].filter(
  (element) => !inBox(element) && element.getBoundingClientRect().right > root.clientWidth + 0.5);
const sizes = [...page.querySelectorAll(".panels text")].map(
  (text) => parseFloat(style(text).fontSize) * scale(text));
const boxes = [...page.querySelectorAll(".scroll")].map((box) => [box.clientWidth, box.scrollWidth]);
document.getElementById("result").textContent = JSON.stringify({
  width: root.clientWidth, scroll: root.scrollWidth, beyond: beyond.map((element) => element.outerHTML.slice(0, 80)),
  smallest: Math.min(...sizes), texts: sizes.length, boxes,
  background: style(page.body).backgroundColor, line: style(page.querySelector(".swatch path")).stroke,
});
"""


def browse(page: Path, folder: Path, *flags: str) -> tuple[str, list[str], list[str]]:
    """Open a page; returns its DOM, its console messages, and the addresses that it asked for."""
    log = folder / "net.json"
    flags = (*FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--dump-dom")
    done = subprocess.run(
        [BROWSER, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=False, errors="replace"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shutil.rmtree(folder / "profile", ignore_errors=True)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return done.stdout, console, requests(log)


def requests(log: Path) -> list[str]:
    """Addresses asked for by a page; what the browser asks for by itself has no origin."""
    text = log.read_text(errors="replace")
    try:
        events = json.loads(text)
    except ValueError:  # cut off at the end
        events = json.loads(text.rstrip().rstrip(",") + "]}")
    started = events["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    found = (event.get("params", {}) for event in events["events"] if event["type"] == started)
    return [params["url"] for params in found if params.get("initiator", "not an origin") != "not an origin"]


def measure(page: Path, folder: Path, width: int, *flags: str) -> dict:
    """Layout of the page in a frame of a width; the frame's scripts are switched off, the measuring one is outside."""
    size = f"width:{width}px;height:800px;border:0"
    frame = f'<iframe id="frame" style="{size}" srcdoc="{escape(page.read_text())}"></iframe>'
    wrapper = folder / "measure.html"
    wrapper.write_text(f'<!doctype html>{frame}<pre id="result"></pre><script>onload = () => {{{MEASURE}}}</script>')
    dom, _, _ = browse(wrapper, folder, *flags)
    return json.loads(unescape(re.search(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)[1]))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two protocols, long names, notes, a damaged record."""
    root = tmp_path_factory.mktemp("page")
    for combiner, level in (("conicgrad", 0.8), ("cagrad", 0.6), ("ls", 0.4)):
        make_run(root / "runs" / combiner, combiner, level=level)
    make_run(root / "runs" / "conicgrad_other", "conicgrad", level=0.5, combiner__c=0.5, reached=800)
    make_run(root / "runs" / ("a_very_long_name_without_a_space" * 3), "ls", [0], env={"reward_version": "v1"})
    assert main([f"runs={root / 'runs'}", f"out={root / 'out'}"]) == 0
    return root / "out" / "index.html"


def test_no_error_and_no_request(page, tmp_path):
    dom, console, asked = browse(page, tmp_path)
    assert "How the numbers are made" in dom
    assert console == []
    assert asked == []


def test_errors_and_requests_would_be_seen(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://127.0.0.1:9/picture.png"><script>console.error("oh no")</script>')
    _, console, asked = browse(page, tmp_path)
    assert any("oh no" in line for line in console)
    assert asked == ["http://127.0.0.1:9/picture.png"]


@pytest.mark.parametrize("width", [360, 1200])
def test_fits_its_width(page, tmp_path, width):
    found = measure(page, tmp_path, width)
    assert found["width"] == width
    assert found["scroll"] == width
    assert found["beyond"] == []
    assert found["texts"] > 100
    assert found["smallest"] >= 7.5  # pixels
    if width == 360:
        assert any(inside > box for box, inside in found["boxes"])  # wide tables scroll by themselves


def test_what_is_too_wide_would_be_seen(page, tmp_path):
    wide = tmp_path / "wide.html"
    wide.write_text(page.read_text().replace("<h1>", '<h1 style="width: 500px">'))
    found = measure(wide, tmp_path, 360)
    assert found["scroll"] > 360
    assert len(found["beyond"]) == 1


def test_dark_where_asked_for(page, tmp_path):
    light, dark = (measure(page, tmp_path, 800, *flags) for flags in ((), (DARK,)))
    assert (light["background"], dark["background"]) == ("rgb(255, 255, 255)", "rgb(21, 24, 28)")
    assert light["line"] != dark["line"]
