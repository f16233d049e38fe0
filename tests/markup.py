"""HTML as a browser would take it: well-formed, no scripts, nothing that would be fetched."""

from html.parser import HTMLParser

FETCHED = ("src", "href", "data", "srcset")
HOSTILE = "<script>alert('&')</script>"


class Page(HTMLParser):
    """Tags, their attributes, and the text of a piece of HTML; it must be well-formed."""

    VOID = ("meta", "br", "hr", "img", "link", "rect")

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = set(), [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.text += " "

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


def check(html):
    """Refuse scripts, handlers of events, and whatever would be fetched."""
    page = Page(html)
    assert "script" not in page.tags
    assert [name for name, _ in page.attributes if name.startswith("on")] == []
    fetched = [
        value for name, value in page.attributes if name in ("src", "href", "data", "srcset")
    ]
    assert [value for value in fetched if not value.startswith(("#", "data:image/svg+xml"))] == []
    assert "url(" not in html
    assert "@import" not in html
    return page
