"""The platform code with a small localizer of its own: inputs, outputs, fall-back, both modes."""

import contextlib
import json
import shutil
import socket
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import numpy as np
import pytest
import SimpleITK as sitk

from landmark_challenge import platform
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization, read_landmarks
from landmark_challenge.task import Task, load_task

from ..platform_schemas import POINTS_SCHEMA


@dataclass
class Fake:
    """Answers with the image's centre and brightest value; fails on demand."""

    task: Task = field(default_factory=lambda: load_task("ceph-19"))
    error: Exception | None = None
    answer: Localization | None = None
    seen: list[Image] = field(default_factory=list)

    def localize(self, image: Image) -> Localization:
        self.seen.append(image)
        if self.error is not None:
            raise self.error
        if self.answer is not None:
            return self.answer
        centre = image.index_to_mm([[(side - 1) / 2 for side in image.size]])
        value = float(image.array.max())
        points = Landmarks(["sella", "nasion"], np.concatenate([centre, [[value, 0, 0]]]), [1.0, 0.75])
        return Localization(points, {"sella": np.diag([1.0, 2.0, 0.0])})

    def mean_shape(self, image: Image) -> Landmarks:
        return Landmarks(["sella"], image.index_to_mm([[0] * image.ndim]))


def write_input(folder, *, value=7, key="socket", name="case-1.png", ext=".mha"):
    target = folder / "images/medical-image"
    target.mkdir(parents=True)
    image = sitk.GetImageFromArray(np.full((20, 30), value, np.uint8))
    image.SetSpacing((0.5, 0.5))
    sitk.WriteImage(image, str(target / f"0f1e{ext}"))
    described = {"slug": "medical-image", "relative_path": "images/medical-image", "kind": "Image"}
    other = {"slug": "age", "relative_path": "age.json"}
    entries: list[dict[str, Any]] = [
        {key: other, "value": 3, "image": None},
        {key: described, "value": None, "image": {"pk": "1", "name": name}},
    ]
    (folder / "inputs.json").write_text(json.dumps(entries))


@pytest.fixture
def folders(tmp_path):
    write_input(tmp_path / "input")
    (tmp_path / "output").mkdir()
    return tmp_path / "input", tmp_path / "output"


def process(localizer, folders, **options):
    platform.process_case(localizer, input_folder=folders[0], output_folder=folders[1], **options)
    return read_landmarks(folders[1] / "anatomical-landmarks.json")


@pytest.mark.parametrize("key", ["socket", "interface"])
def test_both_generations_of_inputs_json_are_read(tmp_path, key):
    write_input(tmp_path, key=key, name="scan.01.nii.gz")
    case = platform.find_input(load_task("ceph-19"), tmp_path)
    assert case.name == "scan.01"
    assert case.image_path == tmp_path / "images/medical-image/0f1e.mha"


def test_a_null_socket_beside_an_interface_is_the_older_generation(tmp_path):
    write_input(tmp_path, key="interface")
    entries = [{**entry, "socket": None} for entry in json.loads((tmp_path / "inputs.json").read_text())]
    (tmp_path / "inputs.json").write_text(json.dumps(entries))
    assert platform.find_input(load_task("ceph-19"), tmp_path).name == "case-1"


def test_the_socket_s_own_path_counts(tmp_path):
    write_input(tmp_path)
    shutil.move(tmp_path / "images/medical-image", tmp_path / "images/xray")
    text = (tmp_path / "inputs.json").read_text().replace("images/medical-image", "images/xray")
    (tmp_path / "inputs.json").write_text(text)
    assert platform.find_input(load_task("ceph-19"), tmp_path).image_path.parent.name == "xray"


def test_without_inputs_json_the_task_s_path_is_read(tmp_path):
    write_input(tmp_path)
    (tmp_path / "inputs.json").unlink()
    assert platform.find_input(load_task("ceph-19"), tmp_path).name == "0f1e"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("[", "wanted JSON"),
        ("{}", "wanted a list"),
        ("[]", "wanted the socket 'medical-image' once, got no sockets"),
        ("[3]", "wanted a socket with a slug"),
        ('[{"socket": {"slug": "ct"}}]', "once, got ct"),
        ('[{"socket": {"slug": "medical-image"}}, {"socket": {"slug": "medical-image"}}]', "once"),
        ('[{"socket": {"slug": "medical-image", "relative_path": "../../etc"}}]', "below the input folder"),
        ('[{"socket": {"slug": "medical-image", "relative_path": 3}}]', "wanted texts"),
        ('[{"socket": {"slug": "medical-image"}, "image": {"name": 3}}]', "wanted texts"),
    ],
)
def test_a_broken_listing_is_refused(tmp_path, content, wanted):
    write_input(tmp_path)
    (tmp_path / "inputs.json").write_text(content)
    with pytest.raises(ChallengeError, match=wanted):
        platform.find_input(load_task("ceph-19"), tmp_path)


def test_no_image_and_two_images_are_refused(tmp_path):
    write_input(tmp_path)
    folder = tmp_path / "images/medical-image"
    shutil.copy(folder / "0f1e.mha", folder / "second.mha")
    with pytest.raises(ChallengeError, match=r"wanted one image .* got 2 images"):
        platform.find_input(load_task("ceph-19"), tmp_path)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(ChallengeError, match="got 0 images"):
        platform.find_input(load_task("ceph-19"), tmp_path)
    folder.rmdir()
    with pytest.raises(ChallengeError, match="wanted a folder"):
        platform.find_input(load_task("ceph-19"), tmp_path)


def test_a_dicom_folder_is_the_image(tmp_path):
    write_input(tmp_path)
    folder = tmp_path / "images/medical-image"
    (folder / "0f1e.mha").rename(folder / "1.2.3.dcm")
    assert platform.find_input(load_task("ceph-19"), tmp_path).image_path == folder


@pytest.mark.parametrize("extension", [".mha", ".tif"])
def test_a_case_in_and_its_answer_out(tmp_path, extension):
    write_input(tmp_path / "input", ext=extension)
    found = process(Fake(), (tmp_path / "input", tmp_path / "output"))
    # Centre of 30 x 20 pixels of 0.5 mm: index (14.5, 9.5). TIFF keeps the spacing to a few digits.
    assert found.point_mm("sella") == pytest.approx([7.25, 4.75, 0.0], abs=1e-4)
    assert found.probability.tolist() == [1.0, 0.75]
    value = json.loads((tmp_path / "output/anatomical-landmarks.json").read_text())
    jsonschema.validate(value, POINTS_SCHEMA)
    uncertainty = json.loads((tmp_path / "output/landmark-uncertainty.json").read_text())
    assert uncertainty == {"sella": [[1.0, 0, 0], [0, 2.0, 0], [0, 0, 0]]}
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == [
        "anatomical-landmarks.json",
        "landmark-uncertainty.json",
    ]


def test_a_method_without_uncertainty_writes_an_empty_object(folders):
    process(Fake(answer=Localization(Landmarks(["sella"], [[1, 2, 0]]))), folders)
    assert (folders[1] / "landmark-uncertainty.json").read_text().strip() == "{}"


NAMELESS = Localization(Landmarks(["no-such-landmark"], [[0, 0, 0]]))
ONE = Landmarks(["sella"], [[0, 0, 0]])


@pytest.mark.parametrize(
    "localizer",
    [
        Fake(error=RuntimeError("boom\nwith a second line")),
        Fake(error=ChallengeError("landmarks: wanted finite coordinates, got NaN or infinity")),
        Fake(error=MemoryError()),
        Fake(answer=NAMELESS),
        Fake(answer=Localization(ONE, {"sella": np.full((3, 3), np.nan)})),
        Fake(answer=Localization(ONE, {"sella": np.eye(2)})),
        Fake(answer=Localization(ONE, {"sella": -np.eye(3)})),
        Fake(answer=Localization(ONE, {"sella": np.array([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 1]])})),
        Fake(answer=Localization(ONE, {"porion-2": np.eye(3)})),
    ],
)
def test_a_failing_method_falls_back_to_its_mean_shape_and_says_so(folders, capsys, localizer):
    found = process(localizer, folders)
    assert found.names == ("sella",) and found.probability.tolist() == [0.0]
    assert found.point_mm("sella").tolist() == [0, 0, 0]
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("warning: case case-1: the method failed") and "mean shape with probability 0" in last
    for socket_file in folders[1].iterdir():
        socket_file.unlink()
    with pytest.raises((RuntimeError, ChallengeError, MemoryError, ValueError)):
        process(localizer, folders, strict=True)
    assert list(folders[1].iterdir()) == []


def test_an_earlier_answer_never_passes_for_this_one_s(folders):
    process(Fake(), folders)
    (folders[0] / "images/medical-image/0f1e.mha").write_bytes(b"no image")
    with pytest.raises(ChallengeError, match=r"0f1e\.mha"):
        process(Fake(), folders)
    assert list(folders[1].iterdir()) == []


def run_exec(load, folders):
    return platform.run_algorithm(load, mode="exec", input_folder=folders[0], output_folder=folders[1])


def test_exec_mode_ends_with_one_clear_line(folders, capsys):
    assert run_exec(Fake, folders) == 0
    (folders[0] / "images/medical-image/0f1e.mha").write_bytes(b"")
    assert run_exec(Fake, folders) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "0f1e.mha" in last and len(last) <= 1024


def test_only_a_program_with_nothing_to_hide_shows_the_text_of_its_faults(capsys):
    def work():
        raise RuntimeError("hidden 31.4159")

    assert platform.run_guarded(work) == 1
    err = capsys.readouterr().err
    assert "RuntimeError at test_platform.py" in err and "31.4159" not in err
    assert platform.run_guarded(work, openly=True) == 1
    err = capsys.readouterr().err.strip()
    assert err.startswith("Traceback") and err.splitlines()[-1].startswith("error: RuntimeError at test_platform.py")
    assert err.endswith("hidden 31.4159")


def test_a_method_that_cannot_be_loaded_tells_its_participant_why(folders, capsys, monkeypatch):
    def load():
        import no_such_package  # noqa: F401

    assert run_exec(load, folders) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ModuleNotFoundError at") and "No module named 'no_such_package'" in last
    monkeypatch.setenv("STRICT", "1")
    assert run_exec(lambda: Fake(error=ValueError("x")), folders) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].endswith(": x")
    monkeypatch.setenv("STRICT", "0")
    assert run_exec(lambda: Fake(error=ValueError("x")), folders) == 0


def test_an_unknown_mode_is_refused(folders):
    with pytest.raises(ValueError, match="exec or invoke"):
        platform.run_algorithm(Fake, mode="batch")


@pytest.fixture
def server():
    """Starts serve_http in a thread of its own; the main thread is the client."""
    stop = []

    def start(handler):
        ports: list[int] = []
        ready = threading.Event()

        def guarded():
            if stop:
                raise SystemExit
            handler()

        def tell(port):
            ports.append(port)
            ready.set()

        def work():
            with contextlib.suppress(SystemExit):
                platform.serve_http(guarded, port=0, host="127.0.0.1", ready=tell)

        threading.Thread(target=work, daemon=True).start()
        assert ready.wait(10)
        addresses.append(f"http://127.0.0.1:{ports[0]}")
        return addresses[-1]

    addresses: list[str] = []
    yield start
    stop.append(True)
    for address in addresses:
        ask(f"{address}/invoke", "POST")


def ask(url, method="GET", data=None):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method, data=data), timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_invoke_serves_many_cases_from_inputs_that_are_made_anew(server, tmp_path):
    localizer = Fake()
    link, output = tmp_path / "input", tmp_path / "output"
    address = server(lambda: platform.process_case(localizer, input_folder=link, output_folder=output))
    assert ask(f"{address}/health") == 200
    for number in range(3):
        write_input(tmp_path / f"task-{number}", value=10 + number)
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / f"task-{number}")
        assert ask(f"{address}/invoke", "POST") == 201
        found = read_landmarks(output / "anatomical-landmarks.json")
        assert found.point_mm("nasion")[0] == 10 + number
        shutil.rmtree(tmp_path / f"task-{number}")
        shutil.rmtree(output)


def test_invoke_answers_500_with_one_line_and_goes_on(server, tmp_path, capfd):
    write_input(tmp_path / "input")
    image = tmp_path / "input/images/medical-image/0f1e.mha"
    content = image.read_bytes()
    address = server(
        lambda: platform.process_case(Fake(), input_folder=tmp_path / "input", output_folder=tmp_path / "output")
    )
    image.write_bytes(b"")
    assert ask(f"{address}/invoke", "POST") == 500
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "0f1e.mha" in lines[0]
    image.write_bytes(content)
    assert ask(f"{address}/invoke", "POST") == 201


def test_calls_are_sequential_and_health_answers_meanwhile(server):
    running, order, gate = threading.Semaphore(1), [], threading.Event()

    def handler():
        assert running.acquire(blocking=False), "two calls ran at the same time"
        gate.wait(10)
        order.append(threading.current_thread())
        running.release()

    address = server(handler)
    results: list[int] = []
    clients = [threading.Thread(target=lambda: results.append(ask(f"{address}/invoke", "POST"))) for _ in range(4)]
    for client in clients:
        client.start()
    assert ask(f"{address}/health") == 200
    gate.set()
    for client in clients:
        client.join()
    assert results == [201] * 4
    assert len(set(order)) == 1, "every call belongs in the thread that loaded the model"


def test_other_paths_bodies_and_silent_clients_do_no_harm(server):
    calls = []
    address = server(lambda: calls.append(1))
    port = int(address.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)):  # connects and says nothing
        assert ask(f"{address}/") == 404
        assert ask(f"{address}/other", "POST") == 404
        assert ask(f"{address}/invoke", "POST", b"{}") == 201
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"POST /invoke HTTP/1.1\r\nContent-Length: -5\r\n\r\n")
        assert b" 201 " in client.recv(100)
    assert len(calls) == 2


def test_warm_up_never_counts_against_a_method(capsys):
    localizer = Fake()
    platform.warm_up(localizer)
    assert localizer.seen[0].ndim == 2
    platform.warm_up(Fake(error=RuntimeError("too small")))
    assert "the warm-up on noise failed (RuntimeError: too small)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "P0DT00H00M00S"),
        (3.25, "P0DT00H00M03.250000S"),
        (1337, "P0DT00H22M17S"),
        (86401, "P1DT00H00M01S"),
        (59.9999999, "P0DT00H01M00S"),
    ],
)
def test_durations_are_the_platform_s(seconds, text):
    assert platform.iso_duration(seconds) == text


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_impossible_durations_are_refused(seconds):
    with pytest.raises((ValueError, OverflowError)):
        platform.iso_duration(seconds)
