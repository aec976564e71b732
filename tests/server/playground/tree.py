"""The page of the playground as a tree of nodes."""

from __future__ import annotations

from html.parser import HTMLParser

#: Elements without an end tag.
VOID = {"meta", "link", "input", "br", "img"}


class Tree(HTMLParser):
    """The page as nested objects."""

    def __init__(self):
        super().__init__()
        self.root = {"tag": "#document", "attributes": {}, "children": []}
        self._open = [self.root]

    def handle_starttag(self, tag, attrs):
        node = {"tag": tag, "attributes": {name: value or "" for name, value in attrs}, "children": []}
        self._open[-1]["children"].append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        self._open[-1]["children"].append(data)


def parsed(page):
    """The page as nested objects: tag, attributes, and children, of which texts are strings."""
    tree = Tree()
    tree.feed(page)
    assert len(tree._open) == 1
    return tree.root
