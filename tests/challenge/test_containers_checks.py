"""What decides in test.sh whether a container is right: it must say no to every kind of wrong answer."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from landmark_challenge import invoke_client, metrics_check, sample_check
from landmark_challenge.landmarks import Landmarks, write_landmarks


def lay_out(folder, *, given, probability=None, uncertainty="{}"):
    """One case with the points a = (0, 0, 0) and b = (10, 0, 0) expected."""
    write_landmarks(folder / "cases/one/expected.json", Landmarks(["a", "b"], [[0, 0, 0], [10, 0, 0]]))
    write_landmarks(
        folder / "answers/one/anatomical-landmarks.json", Landmarks(list(given), list(given.values()), probability)
    )
    (folder / "answers/one/landmark-uncertainty.json").write_text(uncertainty)
    return folder / "cases", folder / "answers"


def test_right_answers_pass_up_to_the_limit_and_not_beyond(tmp_path):
    # Errors 3 and 5 mm: mean 4 mm.
    cases, answers = lay_out(tmp_path, given={"b": [10, 3, 4], "a": [3, 0, 0]})
    assert sample_check.check(cases, answers, 4.0) == []
    assert sample_check.check(cases, answers, 3.999) == ["mean error 4.000 mm, wanted at most 3.999 mm"]
    assert sample_check.main([str(cases), str(answers), "4"]) == 0
    assert sample_check.main([str(cases), str(answers), "3"]) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"given": {"a": [0, 0, 0]}}, "1 of 2 points are missing, 'b'"),
        ({"given": {"a": [0, 0, 0], "b": [10, 0, 0]}, "probability": [1, 0.2]}, "1 of 2 points are missing, 'b'"),
        ({"given": {"a": [0, 0, 0], "b": [10, 0, 0]}, "uncertainty": "[]"}, "wanted covariances"),
        ({"given": {"a": [0, 0, 0], "b": [10, 0, 0]}, "uncertainty": '{"c": []}'}, "wanted covariances"),
        ({"given": {"a": [0, 0, 0], "b": [10, 0, 0]}, "uncertainty": '{"a": NaN}'}, "the number NaN"),
    ],
)
def test_incomplete_answers_fail(tmp_path, change, why):
    [line] = sample_check.check(*lay_out(tmp_path, **change), 1000)
    assert why in line


def test_no_answer_no_cases_and_other_json_fail(tmp_path):
    cases, answers = lay_out(tmp_path, given={"a": [0, 0, 0], "b": [10, 0, 0]})
    points = answers / "one/anatomical-landmarks.json"
    for text in ("{}", "[]", '{"type": "Multiple points", "version": {"major": 2, "minor": 0}, "points": []}', "{"):
        points.write_text(text)
        assert len(sample_check.check(cases, answers, 1000)) == 1
    (answers / "one/landmark-uncertainty.json").unlink()
    assert len(sample_check.check(cases, answers, 1000)) == 1
    assert "there are none" in sample_check.check(answers, answers, 1000)[0]


def test_metrics_must_hold_every_expected_value():
    expected = {"a": {"b": 1.0}, "task": "ceph-19"}
    assert metrics_check.differences(expected, {"a": {"b": 1 + 1e-12, "c": 3}, "task": "ceph-19"}) == []
    assert metrics_check.differences(expected, {"a": {"b": 1.001}, "task": "ceph-19"}) == [
        "metrics.a.b: wanted 1.0, got 1.001"
    ]
    assert len(metrics_check.differences(expected, {"a": {}})) == 2
    assert len(metrics_check.differences(expected, {"a": None, "task": "ceph-19"})) == 1
    assert metrics_check.differences({"n": 1}, {"n": True}) == ["metrics.n: wanted 1, got True"]


def test_the_metrics_program_s_exit_code(tmp_path):
    (tmp_path / "a.json").write_text('{"x": 1}')
    (tmp_path / "b.json").write_text('{"x": 2}')
    assert metrics_check.main([str(tmp_path / "a.json")] * 2) == 0
    assert metrics_check.main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 1


@pytest.fixture
def server():
    """An HTTP server that answers what `answers` says, by path."""
    answers = {"/health": 200, "/invoke": 201}

    class Endpoint(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(answers[self.path])
            self.end_headers()

        def do_POST(self):
            self.do_GET()

        def log_message(self, *_):
            """Silence."""

    http = HTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield answers, http.server_address[1]
    http.shutdown()


def client(port, calls, monkeypatch, capsys, *, seconds="5"):
    monkeypatch.setattr("sys.stdin", ["call\n"] * calls)
    code = invoke_client.main([seconds, "5", str(port)])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_client_wants_200_then_exactly_201(server, monkeypatch, capsys):
    answers, port = server
    code, lines = client(port, 2, monkeypatch, capsys)
    assert code == 0 and lines[0]["healthy"] and [line["status"] for line in lines[1:]] == [201, 201]
    for status in (200, 204, 500):
        answers["/invoke"] = status
        code, lines = client(port, 1, monkeypatch, capsys)
        assert code == 1 and lines[1]["status"] == status


def test_a_redirect_is_a_failure_at_once_and_other_codes_are_retried(server, monkeypatch, capsys):
    answers, port = server
    answers["/health"] = 302
    assert client(port, 1, monkeypatch, capsys) == (1, [{"healthy": False, "seconds": pytest.approx(0, abs=2)}])
    answers["/health"] = 503
    threading.Timer(0.4, lambda: answers.update({"/health": 200})).start()
    code, lines = client(port, 1, monkeypatch, capsys)
    assert code == 0 and lines[0]["seconds"] >= 0.3


def test_nobody_there_is_status_0(monkeypatch, capsys):
    assert client(1, 1, monkeypatch, capsys, seconds="0.2")[0] == 1
    assert invoke_client.request("POST", "/invoke", timeout_s=1, port=1)[0] == 0
