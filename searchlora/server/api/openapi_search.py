"""Schemas of the answers of the paths that search and measure, and example requests, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from searchlora.server.api.openapi_parts import (
    BOOLEAN,
    INTEGER,
    NULLABLE_INTEGER,
    NULLABLE_NUMBER,
    NULLABLE_STRING,
    NUMBER,
    STRING,
    a_list,
    an_object,
)

#: Path -> a request that works on a server with these pipelines, topics and judgments.
EXAMPLES: dict[str, dict[str, Any]] = {
    "/v1/search": {"pipeline": "hybrid", "query": "red couch", "top": 3, "weights": [0.3, 0.7], "trace": True},
    "/v1/judgments": {"query": "red couch", "document": "P017", "grade": 2, "rater": "anna"},
    "/v1/topics/compare": {
        "system": {"pipeline": "rewrite_bm25"},
        "baseline": {"pipeline": "rewrite_bm25", "slots": {"shop-rewriter": "off"}},
        "measure": "nDCG@10",
    },
    "/v1/topics/weights": {"system": {"pipeline": "hybrid"}, "measure": "nDCG@10"},
    "/v1/topics/disagreements": {"pipeline": "judged", "judge": "shop-judge", "limit": 200},
}

_OBJECT = {"type": "object"}

_SLOT = an_object({"name": STRING, "adapter": NULLABLE_STRING, "choices": a_list(STRING)})

_FUSION = an_object(
    {
        "stage": INTEGER,
        "method": STRING,
        "parts": a_list(STRING),
        "weights": a_list(NUMBER),
    }
)

_PIPELINE = an_object(
    {
        "id": STRING,
        "object": {"const": "pipeline"},
        "stages": a_list(STRING),
        "slots": a_list(_SLOT),
        "fusion": {"oneOf": [{"type": "null"}, _FUSION]},
        "judges": a_list(STRING),
        "fields": a_list(STRING),
        "documents": INTEGER,
    }
)

LIST_OF_PIPELINES = an_object({"object": {"const": "list"}, "data": a_list(_PIPELINE)})

#: A row of a trace, see `pipelines.execution.trace_row`.
_STAGE = an_object(
    {
        "id": STRING,
        "stage": INTEGER,
        "kind": STRING,
        "label": STRING,
        "output": _OBJECT,
        "flags": a_list(STRING),
        "milliseconds": NUMBER,
    },
    {
        "adapter": NULLABLE_STRING,
        "input": _OBJECT,
        "requests": a_list(_OBJECT),
        "requests_left_out": INTEGER,
        "tokens": an_object({"prompt": INTEGER, "output": INTEGER}),
    },
)

_HIT = an_object(
    {"rank": INTEGER, "document": STRING, "score": NUMBER, "title": NULLABLE_STRING, "text": NULLABLE_STRING},
    {"grade": NULLABLE_INTEGER},
)

_SPAN = an_object({"passage": INTEGER, "start": INTEGER, "end": INTEGER})

_SENTENCE = an_object(
    {
        "sentence": STRING,
        "citations": a_list(INTEGER),
        "supported": {"type": ["boolean", "null"]},
        "spans": a_list(_SPAN),
        "support": a_list({"type": ["boolean", "null"]}),
    }
)

_PASSAGE = an_object({"number": INTEGER, "document": STRING, "title": STRING, "text": STRING})

_EVIDENCE = an_object({"sentences": a_list(_SENTENCE), "passages": a_list(_PASSAGE)})

_MEASURED = an_object({"measure": STRING, "value": NULLABLE_NUMBER, "judged": INTEGER, "of": INTEGER})

SEARCHED = an_object(
    {
        "object": {"const": "search"},
        "pipeline": STRING,
        "query": STRING,
        "hits": a_list(_HIT),
        "total": INTEGER,
        "output": _OBJECT,
        "evidence": {"oneOf": [{"type": "null"}, _EVIDENCE]},
        "stages": a_list(_STAGE),
        "milliseconds": NUMBER,
    },
    {"topic": STRING, "measured": _MEASURED},
)

EXPLAINED = an_object(
    {
        "object": {"const": "explanation"},
        "pipeline": STRING,
        "document": STRING,
        "query": STRING,
        "stages": a_list(_OBJECT),
        "missing_at": NULLABLE_INTEGER,
        "verdict": STRING,
    }
)

JUDGMENT = an_object(
    {
        "object": {"const": "judgment"},
        "topic": STRING,
        "document": STRING,
        "grade": NULLABLE_INTEGER,
        "measured": a_list(_MEASURED),
    }
)

TOPICS = an_object({"object": {"const": "topics"}, "judged": INTEGER, "measure": STRING, "collects_grades": BOOLEAN})

_FIGURE = {"value": NULLABLE_NUMBER, "low": NULLABLE_NUMBER, "high": NULLABLE_NUMBER}

_SYSTEM = {"pipeline": STRING, "slots": _OBJECT, "weights": a_list(NUMBER), "stages": a_list(STRING)}

_COMPARISON = an_object(
    {
        "object": {"const": "comparison"},
        "measure": STRING,
        "system": an_object(_SYSTEM | _FIGURE),
        "baseline": an_object(_SYSTEM | _FIGURE),
        "difference": NULLABLE_NUMBER,
        "low": NULLABLE_NUMBER,
        "high": NULLABLE_NUMBER,
        "p": NULLABLE_NUMBER,
        "n": INTEGER,
        "wins": INTEGER,
        "losses": INTEGER,
        "ties": INTEGER,
        "circular": _OBJECT,
        "notes": a_list(STRING),
        "topics": a_list(
            an_object(
                {
                    "topic": STRING,
                    "query": STRING,
                    "fields": _OBJECT,
                    "system": NUMBER,
                    "baseline": NUMBER,
                    "gain": NUMBER,
                }
            )
        ),
    }
)

_WEIGHTS = an_object(
    {
        "object": {"const": "weights"},
        "measure": STRING,
        "system": an_object(_SYSTEM),
        "stage": STRING,
        "parts": a_list(STRING),
        "n": INTEGER,
        "mixes": a_list(an_object({"weights": a_list(NUMBER)} | _FIGURE)),
        "best": INTEGER,
        "circular": _OBJECT,
        "notes": a_list(STRING),
    }
)

_DISAGREEMENTS = an_object(
    {
        "object": {"const": "disagreements"},
        "pipeline": STRING,
        "judge": STRING,
        "scale": a_list(INTEGER),
        "pairs": INTEGER,
        "left_out": INTEGER,
        "missing": INTEGER,
        "unknown": INTEGER,
        "invalid": INTEGER,
        "differing": INTEGER,
        "rows": a_list(
            an_object(
                {
                    "topic": STRING,
                    "query": STRING,
                    "fields": _OBJECT,
                    "document": STRING,
                    "title": STRING,
                    "text": STRING,
                    "grade": INTEGER,
                    "given": INTEGER,
                    "raters": a_list(STRING),
                    "judge_grade": INTEGER,
                    "expected": NUMBER,
                    "difference": INTEGER,
                    "probabilities": a_list(an_object({"grade": INTEGER, "probability": NUMBER})),
                    "reason": NULLABLE_STRING,
                }
            )
        ),
    }
)

JOB = an_object(
    {
        "object": {"const": "job"},
        "id": STRING,
        "kind": {"enum": ["comparison", "weights", "disagreements"]},
        "status": {"enum": ["waiting", "running", "done", "failed", "cancelled"]},
        "step": STRING,
        "done": INTEGER,
        "total": INTEGER,
        "result": {"oneOf": [{"type": "null"}, _COMPARISON, _WEIGHTS, _DISAGREEMENTS]},
        "error": {"type": ["object", "null"]},
    }
)

_EVALUATION = an_object(
    {
        "time": STRING,
        "data": STRING,
        "split": STRING,
        "measure": STRING,
        **_FIGURE,
        "n": INTEGER,
        "loses_to": a_list(STRING),
    }
)

_VERSION = an_object(
    {
        "version": INTEGER,
        "reference": STRING,
        "problem": NULLABLE_STRING,
        "created": NULLABLE_STRING,
        "method": NULLABLE_STRING,
        "lineage": a_list(STRING),
        "data": NULLABLE_STRING,
        "metrics": _OBJECT,
        "evaluations": a_list(_EVALUATION),
    }
)

_DECISION = an_object(
    {
        "version": INTEGER,
        "outcome": {"enum": ["promoted", "refused", "forced"]},
        "rules": a_list(an_object({"rule": STRING, "passed": BOOLEAN, "finding": STRING})),
        "n": NULLABLE_INTEGER,
        "split": NULLABLE_STRING,
        "judgments": NULLABLE_STRING,
        "figures": a_list(_OBJECT),
    }
)

_MOVE = an_object(
    {
        "alias": STRING,
        "time": STRING,
        "from": NULLABLE_INTEGER,
        "to": NULLABLE_INTEGER,
        "reason": NULLABLE_STRING,
        "rollback": BOOLEAN,
        "decision": {"oneOf": [{"type": "null"}, _DECISION]},
    }
)

_ADAPTER = an_object(
    {
        "id": STRING,
        "object": {"const": "adapter"},
        "task": NULLABLE_STRING,
        "base": NULLABLE_STRING,
        "problem": NULLABLE_STRING,
        "aliases": {"type": "object", "additionalProperties": _OBJECT},
        "versions": a_list(_VERSION),
        "history": a_list(_MOVE),
        "slots": a_list(an_object({"pipeline": STRING, "slot": STRING, "adapter": STRING, "choices": a_list(STRING)})),
    }
)

LIST_OF_ADAPTERS = an_object({"object": {"const": "list"}, "data": a_list(_ADAPTER)})
