"""Documents, queries and judgments of a small shop."""

from __future__ import annotations

from searchlora.records import Document

DOCUMENTS = [
    Document("d1", "A red couch for two people.", "Red couch", {"brand": "Acme"}),
    Document("d2", "A red, red couch.", "", {"brand": "Northway"}),
    Document("d3", "A red tent for four.", "Tent", {"brand": "Acme"}),
    Document("d4", "A blue lamp.", "Lamp", {"brand": "Acme"}),
]
QUERIES = [("q1", "red couch"), ("q2", "blue lamp"), ("q3", "zebra")]
GRADES = [("q1", "d1", 2), ("q1", "d2", 1), ("q2", "d4", 2), ("q3", "d3", 1)]
