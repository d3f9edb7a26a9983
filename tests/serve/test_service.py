"""A real server: pictures in, the same answers out as by `Classifier`; every other request gets a 4xx that says why."""

import base64
import html
import http.client
import io
import json
import re
import shlex
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from corpus import JPEG, PNG, make_corpus, noisy, photo, png, saved
from PIL import Image
from served import FORM, form
from tiny import ROOT

from vitlora import Classifier
from vitlora.predict.pictures import square

PICTURES = {
    "photo.jpg": JPEG,
    "noise.png": PNG,
    "wide.webp": saved(photo(90, 20, 3), "WEBP"),
    "grey.bmp": saved(noisy(9, 40, 4), "BMP", "L"),
    "one.gif": saved(photo(31, 33, 5), "GIF"),
}


def expected(folder, data):
    """Return label and probabilities as the API gives them."""
    answer = Classifier(folder)(data)
    return answer.label, [
        {"class": name, "confidence": pytest.approx(share, abs=2e-6)} for name, share in answer.probabilities.items()
    ]


def test_several_pictures_are_answered_as_the_classifier_answers(server, folders):
    status, _, told = server.send(*PICTURES.items())
    assert (status, told["model"]) == (200, "first")
    assert [each["image"] for each in told["answers"]] == list(PICTURES)
    for answer, data in zip(told["answers"], PICTURES.values(), strict=True):
        assert (answer["label"], answer["predictions"]) == expected(folders[0], data)
        assert (answer["prediction_set"], answer["error"]) == (None, None)


@pytest.mark.parametrize(("name", "data"), list(PICTURES.items()), ids=list(PICTURES))
def test_one_picture_may_be_the_whole_body(server, folders, name, data):
    status, _, told = server.ask("POST", "/predict?model=second", data, {"Content-Type": "image/any"})
    (answer,) = told["answers"]
    assert (status, told["model"]) == (200, "second")
    assert (answer["label"], answer["predictions"]) == expected(folders[1], data)
    assert answer["prediction_set"] == list(Classifier(folders[1])(data).prediction_set)


def test_many_clients_at_one_time_get_their_own_answers(server, folders):
    pictures = [saved(noisy(20, 20, seed), "PNG") for seed in range(40)]
    with ThreadPoolExecutor(20) as clients:
        got = list(clients.map(lambda data: server.send(("a.png", data)), pictures))
    assert {status for status, _, _ in got} == {200}
    model = Classifier(folders[0])
    for (_, _, told), data in zip(got, pictures, strict=True):
        shares = {each["class"]: each["confidence"] for each in told["answers"][0]["predictions"]}
        assert shares == pytest.approx(model(data).probabilities, abs=2e-6)


def test_top_and_threshold_are_as_asked(server):
    status, _, told = server.send(("a.jpg", JPEG), path="/predict?model=second&top=1&threshold=1")
    (answer,) = told["answers"]
    assert (status, answer["label"], len(answer["predictions"])) == (200, None, 1)


def test_a_bad_picture_among_good_ones_costs_only_its_own_answer(server):
    status, _, told = server.send(("good.png", PNG), ("cut.png", PNG[:-40]), ("text.png", b"hello"), ("too.jpg", JPEG))
    assert status == 200
    assert [bool(each["error"]) for each in told["answers"]] == [False, True, True, False]
    assert "not a picture" in told["answers"][2]["error"]


def test_names_from_outside_come_back_without_control_characters(server):
    status, _, told = server.send(("\x1b[2J\u202egnp.exe", PNG))
    assert status == 200
    assert told["answers"][0]["image"] == "\\x1b[2J\\u202egnp.exe"
    assert told["answers"][0]["predictions"][0]["class"] in ("\x1b[2Jcat", "dog")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.jpg",
        "http://[::1]:8000/a.jpg",
        "http://169.254.169.254/latest/meta-data",
        "http://192.168.0.9/a.jpg",
        "http://0x7f.1/a.jpg",
        "file:///etc/passwd",
        "ftp://example.com/a.jpg",
        "http://user@example.com/a.jpg",
    ],
)
def test_addresses_are_held_to_the_rules(server, url):
    status, _, told = server.send(urls=[url])
    assert status == 422
    error = told["answers"][0]["error"]
    assert error
    assert "passwd" not in error
    assert told["rule"].startswith("an http(s) address of a public server")
    assert "reads it all the same" not in error
    assert ("the server's operator can allow it with --allow-private" in error) == ("not a public address" in error)
    assert server.ask("POST", "/predict", json.dumps({"urls": [url]}), {"Content-Type": "application/json"})[0] == 422


@pytest.mark.parametrize("path", ["/etc/passwd", "-", "~/a.jpg", "C:\\a.jpg", "", "models/export/model.onnx"])
def test_no_file_of_the_server_can_be_named(server, path):
    status, _, told = server.send(urls=[path])
    assert (status, told["rule"].split(" of ")[0]) == (422, "an http(s) address")


SENT = {"Content-Type": FORM}
JSON = {"Content-Type": "application/json"}
OTHER = form().replace(b"--xyz--", b'--xyz\r\nContent-Disposition: form-data; name="f"\r\n\r\n1\r\n--xyz--')
REFUSED = {
    "no content type": ("POST", "/predict", b"x", {}, 415),
    "text": ("POST", "/predict", b"x", {"Content-Type": "text/plain"}, 415),
    "no body": ("POST", "/predict", None, {"Content-Type": "image/png"}, 422),
    "no picture": ("POST", "/predict", form(), SENT, 422),
    "another field": ("POST", "/predict", OTHER, SENT, 422),
    "a file under another name": ("POST", "/predict", form([("a", PNG)]).replace(b'"file"', b'"url"'), SENT, 422),
    "text under file": ("POST", "/predict", form(urls=["http://a"]).replace(b'"url"', b'"file"'), SENT, 422),
    "a form without boundary": ("POST", "/predict", form(), {"Content-Type": "multipart/form-data"}, 400),
    "another boundary": ("POST", "/predict", form([("a", PNG)]), {"Content-Type": FORM + "y"}, 400),
    "a cut form": ("POST", "/predict", form([("a", PNG)])[:-300], SENT, 400),
    "a form cut in its second picture": ("POST", "/predict", form([("a", PNG), ("b", PNG)])[:-300], SENT, 400),
    "a form cut behind its first": ("POST", "/predict", form([("a", PNG)])[:-6], SENT, 400),
    "a part without a name": ("POST", "/predict", form([("a", PNG)]).replace(b'name="file"; ', b""), SENT, 400),
    "cut JSON": ("POST", "/predict", b'{"urls": ["htt', JSON, 400),
    "deep JSON": ("POST", "/predict", b"[" * 200_000, JSON, 400),
    "JSON not UTF-8": ("POST", "/predict", b'{"urls": ["\xff\xfe\xfd"]}', JSON, 400),
    "a long number": ("POST", "/predict", b"9" * 5_000, JSON, 400),
    "other JSON": ("POST", "/predict", b'{"url": "http://a"}', JSON, 422),
    "JSON of numbers": ("POST", "/predict", b'{"urls": [1]}', JSON, 422),
    "half a letter": ("POST", "/predict", b'{"urls": ["\\ud800"]}', JSON, 422),
    "half a letter in an address": ("POST", "/predict", b'{"urls": ["http://\\ud800/"]}', JSON, 422),
    "no such model": ("POST", "/predict?model=third", PNG, {"Content-Type": "image/png"}, 404),
    "an odd top": ("POST", "/predict?top=0", PNG, {"Content-Type": "image/png"}, 422),
    "an endless top": ("POST", "/predict?top=" + "9" * 400, PNG, {"Content-Type": "image/png"}, 422),
    "an odd threshold": ("POST", "/predict?threshold=nan", PNG, {"Content-Type": "image/png"}, 422),
    "a misspelt name": ("POST", "/predict?treshold=0.99", PNG, {"Content-Type": "image/png"}, 422),
    "a name of another route": ("POST", "/explain?top=2", PNG, {"Content-Type": "image/png"}, 422),
    "a name in capitals": ("POST", "/predict?top=2&Model=second", PNG, {"Content-Type": "image/png"}, 422),
    "a value without a name": ("POST", "/predict?=2", PNG, {"Content-Type": "image/png"}, 422),
    "no such class": ("POST", "/explain?label=cow", PNG, {"Content-Type": "image/png"}, 422),
    "two to explain": ("POST", "/explain", form([("a", PNG), ("b", PNG)]), SENT, 422),
    "no picture to explain": ("POST", "/explain", b"hello", {"Content-Type": "image/png"}, 422),
    "too many cells": ("POST", "/explain?cells=99", PNG, {"Content-Type": "image/png"}, 422),
    "too many pictures": ("POST", "/predict", form([("a", PNG)] * 33), SENT, 413),
    "too many addresses": ("POST", "/predict", json.dumps({"urls": ["http://a"] * 33}), JSON, 413),
    "too long": ("POST", "/predict", b"", {"Content-Type": "image/png", "Content-Length": "99999999999"}, 413),
    "get": ("GET", "/predict", None, {}, 405),
    "delete": ("DELETE", "/health", None, {}, 405),
    "no such route": ("GET", "/predict/", None, {}, 404),
    "up the tree": ("GET", "/../../etc/passwd", None, {}, 404),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_says_what_was_got_the_rule_and_a_cure(server, case):
    method, path, body, headers, due = REFUSED[case]
    status, got, told = server.ask(method, path, body, headers)
    assert status == due, told
    assert {"error", "got", "rule", "cure"} <= set(told)
    assert all(told.values())
    assert told["error"] == f"got {told['got']}; the rule: {told['rule']}; {told['cure']}"
    assert got["X-Content-Type-Options"] == "nosniff"
    assert server.ask("GET", "/health")[0] == 200


@pytest.mark.parametrize(
    ("query", "got", "rule"),
    [
        ("top=0", "top=0", "a whole number, 1 to 100,000"),
        ("top=2.5", "top=2.5", "a whole number, 1 to 100,000"),
        ("top=", "top=", "a whole number, 1 to 100,000"),
        ("threshold=nan", "threshold=nan", "a number, 0 to 1"),
        ("threshold=-inf", "threshold=-inf", "a number, 0 to 1"),
        ("threshold=half", "threshold=half", "a number, 0 to 1"),
        ("treshold=1", "treshold in the query", "model, top and threshold"),
        ("top=1&k=2&threshold=2", "k in the query", "model, top and threshold"),
        ("top=1&threshold=1&top=2", "top in the query more than once", "each name once"),
    ],
)
def test_a_wrong_query_is_told_in_our_words(server, query, got, rule):
    _, _, told = server.ask("POST", f"/predict?{query}", PNG, {"Content-Type": "image/png"})
    assert (told["got"], told["rule"]) == (got, rule)
    cells = server.ask("POST", "/explain?cells=1", PNG, {"Content-Type": "image/png"})[2]
    assert (cells["got"], cells["rule"]) == ("cells=1", "a whole number, 2 to 14")


def test_the_cures_lead_on(server):
    """What a refusal says to send is taken."""
    _, _, told = server.ask("POST", "/predict?model=third", PNG, {"Content-Type": "image/png"})
    assert "GET /models" in told["cure"]
    names = [each["name"] for each in server.ask("GET", "/models")[2]["models"]]
    assert names == ["first", "second"]
    assert all(name in told["rule"] for name in names)
    _, _, told = server.ask("POST", "/predict", b"x", {"Content-Type": "text/plain"})
    assert all(each in told["cure"] for each in ("`file`", "`url`", '{"urls": ', "image/jpeg"))
    assert server.send(("a.png", PNG))[0] == 200
    assert server.ask("POST", "/predict", JPEG, {"Content-Type": "image/jpeg"})[0] == 200
    assert "/docs" in server.ask("GET", "/nothing")[2]["cure"]
    assert server.ask("GET", "/docs")[0] == 200


@pytest.mark.parametrize("raw", [b"\x00\x01\x02\r\n\r\n", b"GET / HTTX\r\n\r\n", b"POST /predict HTTP/1.1\r\n\r\n"])
def test_what_is_no_http_is_told_so(server, raw):
    with socket.create_connection(("127.0.0.1", server.port), 20) as line:
        line.sendall(raw)
        assert line.recv(100).startswith(b"HTTP/1.1 4")


def test_a_heat_map_comes_with_the_square_that_it_lies_on(server):
    status, _, told = server.ask("POST", "/explain?cells=3&label=dog", PNG, {"Content-Type": "image/png"})
    assert (status, told["model"], told["explained"]["class"]) == (200, "first", "dog")
    assert np.array(told["values"]).shape == (3, 3)
    head, _, data = told["square"].partition(",")
    assert head == "data:image/png;base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert np.array_equal(pixels.transpose(2, 0, 1), square(8, "bilinear", PNG))


def test_counts_are_told_to_prometheus(server):
    def read():
        text = server.ask("GET", "/metrics")[2]
        return {name: float(value) for name, value in re.findall(r"^(vitlora_\S+) (\S+)$", text, re.MULTILINE)}

    before = read()
    server.send(("a.png", PNG), ("b.png", PNG), ("c.png", b"no"))
    server.ask("GET", "/nobody/knows/" + "x" * 50)
    grown = {name: value - before.get(name, 0) for name, value in read().items() if value != before.get(name, 0)}
    assert grown['vitlora_requests_total{route="/predict",status="200"}'] == 1
    assert grown['vitlora_requests_total{route="none",status="404"}'] == 1
    assert grown['vitlora_pictures_total{model="first",outcome="read"}'] == 2
    assert grown['vitlora_pictures_total{model="first",outcome="unreadable"}'] == 1
    assert grown['vitlora_batch_squares_sum{model="first"}'] == 2
    assert grown["vitlora_decode_seconds_count"] == 2
    assert grown['vitlora_score_seconds_count{model="first"}'] >= 1
    assert not any("xxx" in name for name in grown)


def test_the_lines_of_the_docs_are_answered(server, tmp_path):
    text = (ROOT / "docs/serve.md").read_text()
    lines = re.search(r"```sh\n(curl .*?)```", text, re.DOTALL)[1].splitlines()
    for name in ("cat.jpg", "dog.png"):
        (tmp_path / name).write_bytes(JPEG)
    found = []
    for line in lines:
        words = shlex.split(line.replace(":8000", f":{server.port}").replace("https://example.com", "http://127.0.0.1"))
        done = subprocess.run([*words, "-s"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
        told = json.loads(done.stdout)
        found.append([(each["image"], bool(each["error"])) for each in told["answers"]])
    assert found == [[("cat.jpg", False), ("dog.png", False)], [("", False)], [("http://127.0.0.1/cat.jpg", True)]]
    example, refusal = map(json.loads, re.findall(r"```json\n(.*?)```", text, re.DOTALL))
    told = server.send(("a.png", PNG))[2]
    assert (set(example), set(example["answers"][0])) == (set(told), set(told["answers"][0]))
    assert server.send(*[("a", PNG)] * 33)[2] == refusal


def test_every_route_is_described(server):
    paths = server.ask("GET", "/openapi.json")[2]["paths"]
    assert {"/predict", "/explain", "/models", "/health", "/metrics", "/v2", "/v2/models/{name}/infer"} <= set(paths)
    page = server.ask("GET", "/docs")[2]
    assert all(f"</b> {path}<" in page for path in paths)
    assert "://" not in page.replace(f"http://127.0.0.1:{server.port}/", "").replace("https://example.com", "")
    assert "`" not in page
    assert not re.search("Successful Response|Validation ?Error", page + json.dumps(paths))


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("models.example:8443", "models.example:8443"),
        ("[::1]:9000", "[::1]:9000"),
        ("10.0.0.7", "10.0.0.7"),
        ("a';rm -rf ~;'", None),
        ("<script>alert(1)</script>", None),
        ("a b", None),
    ],
)
def test_the_examples_of_docs_ask_the_server_by_the_name_that_it_was_asked_by(server, host, shown):
    page = server.ask("GET", "/docs", headers={"Host": host})[2]
    assert f" http://{shown or f'127.0.0.1:{server.port}'}/health<" in page
    assert "rm -rf" not in page
    assert "<script" not in page


def test_the_examples_of_docs_are_answered(server, tmp_path):
    (tmp_path / "cat.jpg").write_bytes(JPEG)
    page = html.unescape(server.ask("GET", "/docs")[2])
    lines = [line for block in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL) for line in block.splitlines()]
    assert len(lines) > 12
    for line in lines:
        if "https://example.com" not in line:
            words = shlex.split(line.replace("NAME", "first"))
            subprocess.run([*words, "-s", "--fail"], cwd=tmp_path, check=True, timeout=30, stdout=subprocess.DEVNULL)
    given = [line for line in lines if "https://example.com" in line]
    assert len(given) == 4
    for line in given:
        words = shlex.split(line.replace("https://example.com", "http://127.0.0.1"))
        done = subprocess.run([*words, "-s"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
        assert "not a public address" in done.stdout


@pytest.mark.parametrize("path", ["/", "/docs", "/health"])
def test_heads_are_answered_without_a_body(server, path):
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for _ in range(2):  # on one connection, which a body would put out of step
        line.request("HEAD", path)
        answer = line.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
        assert int(answer.headers["Content-Length"]) > 0
    line.close()


def infer(server, given, name="second", **more):
    body = json.dumps({"inputs": [{"name": "pictures", **given}], **more})
    return server.ask("POST", f"/v2/models/{name}/infer", body, {"Content-Type": "application/json"})


def test_the_inference_protocol_takes_files_and_pixels(server, folders):
    model = Classifier(folders[1])
    files = [base64.b64encode(data).decode() for data in (JPEG, PNG)]
    status, _, told = infer(server, {"datatype": "BYTES", "shape": [2], "data": files}, id="mine")
    assert (status, told["model_name"], told["id"]) == (200, "second", "mine")
    shares, labels = told["outputs"]
    assert (shares["name"], shares["datatype"], shares["shape"]) == ("probabilities", "FP32", [2, 2])
    due = [model(data).probabilities[name] for data in (JPEG, PNG) for name in model.class_names]
    assert shares["data"] == pytest.approx(due, abs=1e-6)
    assert labels["data"] == [model(data).label for data in (JPEG, PNG)]
    pixels = np.stack([photo(12, 9, seed) for seed in range(3)])
    for data in (pixels.tolist(), pixels.ravel().tolist()):
        given = {"datatype": "UINT8", "shape": [3, 9, 12, 3], "data": data}
        status, _, told = infer(server, given, outputs=[{"name": "labels"}])
        assert (status, len(told["outputs"])) == (200, 1)
        assert told["outputs"][0]["data"] == [each.label for each in model(pixels)]


def test_the_inference_protocol_describes_server_and_models(server):
    assert server.ask("GET", "/v2")[2]["name"] == "vitlora"
    assert server.ask("GET", "/v2/health/live")[2] == {"live": True}
    assert server.ask("GET", "/v2/health/ready")[2] == {"ready": True}
    assert server.ask("GET", "/v2/models/second/ready")[2] == {"ready": True, "name": "second"}
    told = server.ask("GET", "/v2/models/second")[2]
    assert [each["datatype"] for each in told["inputs"]] == ["BYTES", "UINT8"]
    assert told["outputs"][0]["shape"] == [-1, 2]
    assert server.ask("GET", "/v2/models/third")[0] == 404


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"datatype": "FP32", "shape": [1], "data": [1.0]},
        {"datatype": "BYTES", "shape": [2], "data": ["aGVsbG8="]},
        {"datatype": "BYTES", "shape": [1], "data": ["no base64!"]},
        {"datatype": "BYTES", "shape": [1], "data": [7]},
        {"datatype": "BYTES", "shape": [1], "data": ["aGVsbG8="]},
        {"datatype": "UINT8", "shape": [1, 2, 2, 4], "data": [0] * 16},
        {"datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0] * 11},
        {"datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [256] * 12},
        {"datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [-1] * 12},
        {"datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [10**40] * 12},
        {"datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0.5] * 12},
        {"datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [True] * 12},
        {"datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [[1, 2], [3]]},
        {"datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [0] * 3},
        {"datatype": "UINT8", "shape": [10**9, 10**9, 10**9, 3], "data": [0] * 3},
        {"datatype": "UINT8", "shape": [0, 2, 2, 3], "data": []},
        {"datatype": "UINT8", "shape": "1", "data": []},
    ],
    ids=lambda given: str(given)[:60],
)
def test_what_does_not_keep_to_the_inference_protocol_gets_400(server, given):
    status, _, told = infer(server, given)
    assert status == 400, told
    assert told["error"].startswith("got ")
    assert told["error"].count("the rule: ") == 1


def test_the_shape_and_the_size_of_pictures_are_told(server):
    for shape in ([2], [1, 1], [7]):
        told = infer(server, {"datatype": "BYTES", "shape": shape, "data": ["aGVsbG8="]})[2]
        assert (told["got"], told["rule"]) == (
            f"1 element of BYTES with the shape {shape}",
            "the shape [N] with N elements, here [1]",
        )
    for shape, size in (([1, 1, 1, 3], "1 x 1"), ([1, 1, 9, 3], "9 x 1"), ([1, 9, 1, 3], "1 x 9")):
        told = infer(server, {"datatype": "UINT8", "shape": shape, "data": [0] * int(np.prod(shape))})[2]
        assert (told["got"], told["rule"]) == (
            f"picture 0, which can't be read: {size} px",
            "no side under 2 px",
        )


@pytest.mark.parametrize("body", ["[]", "{}", '{"inputs": 1}', '{"inputs": []}', '{"inputs": [1]}', '{"id": 7}', "x"])
def test_other_bodies_get_400_too(server, body):
    assert server.ask("POST", "/v2/models/first/infer", body)[0] == 400


def test_broken_pictures_of_all_kinds_get_422_and_whole_ones_200(server):
    cases = [case for case in make_corpus() if 0 < len(case.data) < 500_000][::4]
    assert len({case.reason for case in cases}) > 5
    for case in cases:
        status, _, told = server.send(("a", case.data))
        assert status == (422 if case.reason else 200), (case.category, case.name, told)


def test_a_connection_can_be_used_again_after_a_refusal(server):
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for body, due in ((b"no", 422), (PNG, 200), (b"", 422), (JPEG, 200)):
        line.request("POST", "/predict", body, {"Content-Type": "image/png"})
        answer = line.getresponse()
        answer.read()
        assert answer.status == due
    line.close()


def test_too_many_pixels_are_refused_before_they_are_decoded(server):
    bomb = png(b"\0\0\xff\xff\0\0\xff\xff\x08\2\0\0\0", b"")
    assert "too many pixels" in server.send(("a.png", bomb))[2]["error"]
