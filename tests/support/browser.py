"""A real browser without a window: Debian's chromium, driven through its chromedriver."""

import base64
import json
import shutil
from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium")

TEXTS = """
const boxes = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const node = walk.currentNode;
  const parent = node.parentElement;
  if (!node.data.trim() || parent.closest("script, style, .hidden")) continue;
  const head = parent.closest("thead"); // on a phone, only for those who listen
  if (head && getComputedStyle(head).position === "absolute") continue;
  if (!parent.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })) continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  for (const box of range.getClientRects()) {
    if (box.width < 1 || box.height < 1) continue;
    const [x, y] = [box.x + scrollX, box.y + scrollY];
    boxes.push([node.data.trim(), x, y, x + box.width, y + box.height]);
  }
}
return boxes;
"""
"""Each line of text with its box, in pixels of the page."""

CUT = """
return [...document.querySelectorAll(".plot")].flatMap((plot) => {
  const chart = plot.getBoundingClientRect();
  return [...plot.querySelectorAll("svg text")].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.width > 0 && (box.left < chart.left - 1 || box.right > chart.right + 1
      || box.top < chart.top - 1 || box.bottom > chart.bottom + 1);
  }).map((text) => text.textContent);
});
"""
"""Texts of charts that go on beyond their chart, where nobody sees them."""

MARKS = """
return [...document.querySelectorAll(".plot")].map((plot) => [
  plot.getAttribute("aria-label"),
  plot.querySelectorAll(
    ".scatterlayer path.js-line, .scatterlayer path.point, .barlayer path, .heatmaplayer image"
  ).length,
]);
"""
"""Each chart, by what it tells those who cannot see it, and how many marks are drawn in it."""


class Page:
    """A page that is open, with all charts drawn."""

    def __init__(self, driver):
        self.driver = driver

    def run(self, script):
        return self.driver.execute_script(script)

    def wait(self):
        drawn = "return document.documentElement.dataset.drawn === 'yes'"
        WebDriverWait(self.driver, 30, poll_frequency=0.05).until(lambda _: self.run(drawn))

    def scheme(self, name):
        """Prefer light or dark; the charts are drawn again."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.run("return new Promise((next) => requestAnimationFrame(() => setTimeout(next)))")
        self.wait()

    def unfold(self):
        """Open all that is folded, and wait for its charts."""
        self.run("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        self.run("return new Promise((next) => requestAnimationFrame(() => setTimeout(next)))")
        self.wait()

    def console(self):
        """What the console said since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        """Addresses asked for since this was last called, but for the page's own file."""
        logged = [json.loads(entry["message"]) for entry in self.driver.get_log("performance")]
        sent = [each["message"] for each in logged]
        urls = [
            each["params"]["request"]["url"]
            for each in sent
            if each["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(("file:", "data:", "blob:"))]

    def overlaps(self):
        """Pairs of texts whose boxes share more than a line's rounding."""
        boxes = sorted(self.run(TEXTS), key=lambda box: box[2])
        pairs = []
        for i, (one, left, top, right, bottom) in enumerate(boxes):
            for other, left2, top2, right2, bottom2 in boxes[i + 1 :]:
                if top2 >= bottom:
                    break
                across = min(right, right2) - max(left, left2)
                down = min(bottom, bottom2) - max(top, top2)
                if across > 1 and down > 3:
                    pairs.append((one, other))
        return pairs

    def cut(self):
        """Texts that lie in part outside their chart, by more than a pixel."""
        return self.run(CUT)

    def picture(self, path):
        """Write a picture of the whole page."""
        shot = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True}
        )
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def opened():
    """Give a function that opens a file and returns its `Page`."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))

    def open_page(path, width=1440, scheme="light", wait=True):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        driver.get(path.absolute().as_uri())
        page = Page(driver)
        if wait:  # for the charts of a report
            page.wait()
        return page

    try:
        yield open_page
    finally:
        driver.quit()
