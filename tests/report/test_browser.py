"""The page in a real browser: it draws, answers the pointer, and asks the network for nothing."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gansmith import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH to look at the page")

# What a reader does; what comes of it is written into the page, where --dump-dom shows it.
ACTIONS = """
<pre id="seen"></pre><script>
const seen = { errors: [] };
addEventListener("error", (event) => seen.errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => seen.errors.push(event.blockedURI));
const charts = [...document.querySelectorAll(".chart")];
const chart = charts.find((one) => one.querySelector("h3").textContent === "Losses");
const svg = chart.querySelector("svg");
const read = () => [...chart.querySelectorAll(".legend b")].map((node) => node.textContent);
const drawn = (root) => [...root.querySelectorAll(":scope > svg path.curve")];
const paths = (root) => drawn(root).map((node) => node.getAttribute("d"));
seen.charts = Object.fromEntries(charts.map((one) => [one.querySelector("h3").textContent, paths(one)]));
seen.newest = read();
const box = svg.getBoundingClientRect();
svg.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + 52, clientY: box.top + 50 }));
seen.first = read();
seen.readout = chart.querySelector(".readout").textContent;
seen.logs = charts.map((one) => one.querySelector("header button").disabled);
const sigma = charts.find((one) => one.querySelector("h3").textContent === "σ0 in G");
const before = paths(sigma).join();
sigma.querySelector("header button").click();
seen.logChanges = paths(sigma).join() !== before;
const slider = document.querySelector("#viewer input");
seen.frame = document.querySelector("#viewer output").value;
slider.value = 0;
slider.dispatchEvent(new Event("input"));
seen.init = document.querySelector("#viewer output").value;
const picture = document.querySelector("#viewer img");
seen.marks = svg.querySelectorAll(".mark").length;
seen.wide = document.documentElement.scrollWidth - innerWidth;
picture.decode().then(() => { seen.picture = picture.naturalWidth; }).finally(() => {
  document.getElementById("seen").textContent = JSON.stringify(seen);
});
</script>
"""


class Handler(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, *arguments: object) -> None:
        self.asked.append(self.path)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A server of tmp_path on this machine, and the list of what it was asked for."""
    asked: list[str] = []
    handler = type("Recorder", (Handler,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def browse(address: str, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """The page's elements after its scripts ran, and what the browser's console said."""
    assert CHROMIUM is not None
    result = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-first-run",
         "--disable-background-networking", "--enable-logging=stderr", "--virtual-time-budget=3000",
         *flags, "--dump-dom", address],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return result.stdout, re.findall(r"CONSOLE[^\n]*", result.stderr)


@pytest.mark.parametrize("width", [1400, 500])  # a headless window is never narrower than 500
def test_page_draws_answers_and_asks_for_nothing(
    run: Path, tmp_path: Path, served: tuple[str, list[str]], width: int
) -> None:
    page = report.write(run, tmp_path / "report.html")
    page.write_text(page.read_text().replace("</body>", ACTIONS + "</body>"))
    address, asked = served
    dom, console = browse(f"{address}/report.html", tmp_path / "profile", f"--window-size={width},1000")
    said = re.search(r'<pre id="seen">(.*?)</pre>', dom)
    assert said, dom[-2000:]
    seen = json.loads(said[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))

    assert set(asked) <= {"/report.html", "/favicon.ico"}
    assert [line for line in console if "favicon" not in line] == []
    assert seen["errors"] == []
    points = {
        title: [path.count("L") + 1 for path in paths if path] for title, paths in seen["charts"].items()
    }
    assert points["Losses"] == [4, 12, 4, 12]  # abandoned and alive rows, of each loss
    assert points["FID"] == [1, 3]  # the last line is drawn first
    assert len(points["σ0 in G"]) == 18
    assert all("NaN" not in path for paths in seen["charts"].values() for path in paths if path)
    assert seen["newest"] == ["0.125", "−0.5"]
    assert seen["first"] == ["2", "−0.5"]  # 2000 / 1000 at the first row
    assert seen["readout"].startswith("1,000 images")
    assert seen["logChanges"]
    assert (seen["frame"], seen["init"]) == ("8,000 images", "before training")
    assert seen["picture"] == 48
    assert seen["marks"] == 2  # the warning and the resume
    assert seen["wide"] <= 0  # nothing sticks out of the page
