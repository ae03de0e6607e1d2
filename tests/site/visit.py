"""A page in the browser, as a reader goes through it, and what happened on the way."""

VIEWS = {"light": ("light", 1300, 900), "dark": ("dark", 1300, 900), "narrow": ("light", 390, 844)}


class Visit:
    """A page in the browser, and what happened while it was loaded and drawn."""

    def __init__(self, context, server, name):
        self.page = context.new_page()
        self.show("light")
        self.elsewhere, self.complaints, self.loaded = [], [], []
        self.page.on("request", lambda r: self._request(r.url, server))
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("response", lambda r: self.complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        self.page.goto(f"{server}/{name}.html", wait_until="load")
        self.page.wait_for_function("() => document.documentElement.dataset.lodoFitted")

    def show(self, view):
        """Turn to another colour scheme and width, as a reader does by the system's setting and the window."""
        theme, width, height = VIEWS[view]
        self.page.emulate_media(color_scheme=theme, media="screen")
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.wait_for_timeout(300)  # figures and formulas take the new width a moment later

    def read(self):
        """Open what is folded and scroll through the page, until every figure is drawn."""
        self.page.evaluate(
            """async () => {
              for (const folded of document.querySelectorAll('.bd-article details')) folded.open = true;
              for (const figure of document.querySelectorAll('.lodo-figure:not(.drawn)')) {
                const end = performance.now() + 20_000;  // on a busy machine it is drawn some frames later
                while (!figure.classList.contains('drawn') && performance.now() < end) {
                  figure.scrollIntoView();
                  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 20)));
                }
              }
            }"""
        )
        self.page.wait_for_function("() => !document.querySelector('.lodo-figure:not(.drawn)')")
        self.page.evaluate("scrollTo(0, 0)")

    def find(self, script, argument=None):
        """What a function of JavaScript returns in the page."""
        return self.page.evaluate(script, argument)

    def _request(self, url, server):
        self.loaded.append(url)
        if not url.startswith((server, "data:", "blob:")):
            self.elsewhere.append(url)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.page.close()
