"""Make a PNG of every figure in a folder: `python docs/figures.py FOLDER`.

`python -m analysis study DIR --figures FOLDER` writes the figures, as pages. Needs requirements-dev.txt and
Chrome or Chromium.
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright
from screenshot import find_browser

WIDTH = 1000


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("expected one folder, as in: python docs/figures.py figures")
    pages = sorted(Path(sys.argv[1]).resolve().glob("*.html"))
    if not pages:
        sys.exit(f"{sys.argv[1]}: no figures there: python -m analysis study DIR --figures {sys.argv[1]}")
    browser = find_browser()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": WIDTH, "height": 400}, color_scheme="light", device_scale_factor=2)
        for path in pages:
            page.goto(path.as_uri())
            page.wait_for_selector(".js-plotly-plot .main-svg")
            page.wait_for_timeout(1000)  # plotly settles its margins
            page.locator(".js-plotly-plot").screenshot(path=path.with_suffix(".png"))
            print(path.with_suffix(".png"))
        chromium.close()


if __name__ == "__main__":
    main()
