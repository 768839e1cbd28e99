"""The platform's own schemas, from its documentation (reference/platform.md, section 3), not from our code.

JSON that reaches the platform is parsed with NaN and infinity as null, then checked against its socket's kind.
"""

import json
import re
from typing import Any

import jsonschema

VERSION = {
    "type": "object",
    "additionalProperties": False,
    "required": ["major", "minor"],
    "properties": {"major": {"type": "number"}, "minor": {"type": "number"}},
}
COORDINATES = {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}
# "Multiple points" (MPOI).
POINTS_SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "additionalProperties": False,
    "required": ["version", "type", "points"],
    "properties": {
        "type": {"enum": ["Multiple points"]},
        "name": {"type": "string"},
        "version": VERSION,
        "points": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["point"],
                "properties": {
                    "name": {"type": "string"},
                    "type": {"enum": ["Point"]},
                    "probability": {"type": "number", "minimum": 0, "maximum": 1},
                    "point": COORDINATES,
                },
            },
        },
    },
}
# "Anything" (JSON).
ANYTHING_SCHEMA: dict[str, Any] = {"$schema": "http://json-schema.org/draft-07/schema#"}
KIND_SCHEMAS = {"Multiple points": POINTS_SCHEMA, "Anything": ANYTHING_SCHEMA}

# The rules of a socket. An image has no suffix in its path; a Multiple points socket is always a file.
RESERVED_SLUGS = {
    *("predictions-csv-file", "predictions-json-file", "predictions-zip-file"),
    *("metrics-json-file", "results-json-file"),
}
UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
SOCKET_SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "required": ["title", "slug", "kind", "relative_path", "store_in_database", "schema"],
    "properties": {
        "slug": {"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$", "not": {"enum": sorted(RESERVED_SLUGS)}},
        "title": {"type": "string", "minLength": 1},
        "relative_path": {"type": "string", "not": {"pattern": f"{UUID}|^/|\\.\\.|^inputs\\.json$"}},
        "kind": {"enum": ["Image", *KIND_SCHEMAS]},
        "store_in_database": {"const": False},
    },
    "if": {"properties": {"kind": {"const": "Image"}}},
    "then": {"properties": {"relative_path": {"pattern": "^images/[^./]+$"}, "schema": {"type": "null"}}},
    "else": {"properties": {"relative_path": {"pattern": "\\.json$"}}},
}
# A phase as the organiser's form takes it: limits of reference/platform.md, section 2; columns of section 4.
PATH = {"type": "string", "pattern": "^[^.\\[\\]]+(\\.[^.\\[\\]]+)*$"}
ORDER = {"enum": ["asc", "desc"]}
PHASE_SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "required": ["algorithm_inputs", "algorithm_outputs", "score_title", "score_jsonpath", "score_default_sort"],
    "properties": {
        "submission_kind": {"const": "Algorithm"},
        "algorithm_time_limit": {"type": "integer", "minimum": 300, "maximum": 86400},
        "evaluation_time_limit": {"type": "integer", "minimum": 300, "maximum": 86400},
        "algorithm_maximum_settable_memory_gb": {"type": "integer", "minimum": 4, "maximum": 32},
        "evaluation_requires_memory_gb": {"type": "integer", "minimum": 4},
        "score_jsonpath": PATH,
        "score_default_sort": ORDER,
        "scoring_method_choice": {"enum": ["abs", "avg", "med"]},
        "result_display_choice": {"enum": ["all", "rec", "bst"]},
        "extra_results_columns": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["title", "path", "order"],
                "properties": {
                    "title": {"type": "string"},
                    "path": PATH,
                    "order": ORDER,
                    "error_path": PATH,
                    "exclude_from_ranking": {"type": "boolean"},
                },
            },
        },
    },
}


def parse_as_platform(text: str | bytes) -> Any:
    """JSON as the platform parses it: what is no finite number becomes null."""
    return json.loads(text, parse_constant=lambda _: None)


def leaderboard_value(metrics: Any, path: str) -> Any:
    """What a leaderboard column shows: keys through objects alone, "" where one is absent."""
    for key in path.split("."):
        if not isinstance(metrics, dict) or key not in metrics:
            return ""
        metrics = metrics[key]
    return metrics


def check_socket(socket: Any) -> None:
    """Raise ValidationError for a socket that the platform's form refuses."""
    jsonschema.validate(socket, SOCKET_SCHEMA)
    if socket["schema"] is not None:
        jsonschema.Draft7Validator.check_schema(socket["schema"])
    assert re.fullmatch(r"[\x20-\x7e]+", socket["title"])
