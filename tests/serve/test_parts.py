"""Parts of the service by themselves: batches, occlusion, adapters on one base, names of models."""

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vitlora.core.errors import VitloraError
from vitlora.predict.pictures import Unreadable
from vitlora.serve import limits
from vitlora.serve.app import _told
from vitlora.serve.bodies import Given
from vitlora.serve.explain import heat, occluded
from vitlora.serve.guard import Guard, _Call
from vitlora.serve.limits import Limits, Refusal
from vitlora.serve.metrics import Metrics
from vitlora.serve.models import Served, named, refuse_double
from vitlora.serve.scorer import Scorer

SIZE = 28


def model(name="m", score=None, calls=None):
    """A model of two classes: the share of the second is the mean of the middle part, of 1."""

    def brightness(squares):
        if calls is not None:
            calls.append((name, len(squares)))
        share = squares[:, :, 8:20, 8:20].mean((1, 2, 3), dtype=np.float32) / 255
        return np.stack([1 - share, share], 1)

    return Served(name, "test", ["dark", "bright"], SIZE, [0.5, 0.4, 0.3], None, score or brightness, None)


def grey(value):
    return np.full((3, SIZE, SIZE), value, np.uint8)


async def scored(scorer, wanted):
    scorer.metrics = Metrics(scorer.__len__, lambda: 0)
    return await asyncio.gather(*(scorer.score(*each) for each in wanted), return_exceptions=True)


def test_what_waits_is_scored_together_in_order_of_arrival_a_model_at_a_time():
    calls = []
    first, second = model("first", calls=calls), model("second", calls=calls)
    wanted = [((first, second)[number % 3 == 2], grey(number)) for number in range(120)]
    scorer = Scorer()
    rows = asyncio.run(scored(scorer, wanted))
    scorer.close()
    assert [round(float(row[1]) * 255) for row in rows] == list(range(120))
    assert calls == [("first", 32), ("second", 32), ("first", 32), ("first", 16), ("second", 8)]
    assert len(scorer) == 0


def test_a_batch_that_fails_fails_its_own_and_no_other():
    def broken(_):
        raise ValueError("no memory")

    scorer = Scorer()
    rows = asyncio.run(scored(scorer, [(model("a", broken), grey(0)), (model("b"), grey(255)), (model("c"), grey(0))]))
    scorer.close()
    assert [type(row) for row in rows] == [ValueError, np.ndarray, np.ndarray]


def test_what_nobody_waits_for_any_more_is_not_scored():
    async def run(scorer, calls):
        scorer.metrics = Metrics(scorer.__len__, lambda: 0)
        one = model(calls=calls)
        waiting = [scorer.score(one, grey(each)) for each in range(5)]
        for each in waiting[1:4]:
            each.cancel()
        return await asyncio.gather(waiting[0], waiting[4])

    scorer, calls = Scorer(), []
    rows = asyncio.run(run(scorer, calls))
    scorer.close()
    assert calls == [("m", 2)]
    assert [round(float(row[1]) * 255) for row in rows] == [0, 4]


def test_bodies_in_memory_are_bounded_all_together(monkeypatch):
    """Each keeps to its own limit; the one that goes beyond that of all is sent away, and gives its room back."""

    async def receive():
        return {"type": "http.request", "body": bytes(600), "more_body": True}

    async def run():
        monkeypatch.setattr(limits, "HELD", 1_000)
        guard = SimpleNamespace(service=SimpleNamespace(limits=Limits(body_bytes=1_000)), held=0)
        first, second = _Call(guard, receive, None), _Call(guard, receive, None)
        await first.receive()
        with pytest.raises(Refusal, match="1,200 bytes of requests at one time") as refused:
            await second.receive()
        return guard.held, refused.value.status

    assert asyncio.run(run()) == (1_200, 503)


def test_the_room_of_a_body_is_given_back_when_its_request_ends():
    async def app(scope, receive, send):
        await receive()
        held.append(guard.held)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        raise ValueError("a fault of ours")

    async def receive():
        return {"type": "http.request", "body": bytes(70)}

    async def send(_):
        pass

    held = []
    metrics = Metrics(lambda: 0, lambda: 0)
    guard = Guard(app, SimpleNamespace(limits=Limits(), keys=[], metrics=metrics))
    with pytest.raises(ValueError, match="a fault of ours"):
        asyncio.run(guard({"type": "http", "path": "/", "headers": []}, receive, send))
    assert (held, guard.held) == ([70], 0)
    assert b'vitlora_requests_total{route="none",status="204"} 1.0' in metrics.text()


@pytest.mark.parametrize(("size", "cells"), [(28, 7), (42, 7), (224, 7), (30, 4), (8, 7), (9, 2), (32, 14)])
def test_each_cell_is_hidden_once_with_half_of_its_neighbours(size, cells):
    square = np.zeros((3, size, size), np.uint8)
    copies = occluded(square, [0.5, 0.4, 0.3], cells)
    assert copies.shape == (cells * cells, 3, size, size)
    assert (square == 0).all()
    hidden = (copies != 0).all(1)
    assert hidden.any((1, 2)).all()
    assert hidden.any(0).all()
    assert {tuple(colour) for colour in copies.transpose(0, 2, 3, 1)[hidden]} == {(128, 102, 76)}
    share = hidden[cells // 2 * cells + cells // 2].mean() * cells * cells  # of a cell's area, in the middle
    assert size < 3 * cells or cells < 3 or 3 < share < 5.5


def test_heat_is_where_the_class_hangs_on():
    """Only the middle part counts, so only there the class loses."""

    async def run(scorer):
        scorer.metrics = Metrics(scorer.__len__, lambda: 0)
        return await heat(scorer, model(), grey(250), None), await heat(scorer, model(), grey(250), 0)

    scorer = Scorer()
    found, other = asyncio.run(run(scorer))
    scorer.close()
    assert (found.label, round(found.share, 3)) == (1, round(250 / 255, 3))
    assert found.values.shape == (7, 7)
    assert found.values[3, 3] == found.values.max() > 0.1
    corners = found.values[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.abs(corners).max() < 1e-6
    assert other.values.min() < -0.5  # the other class gains


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("models/export", "export"),
        ("a=models/export", "a"),
        ("a.b-c_9=/x", "a.b-c_9"),
        ("pets=/lr=0.1/x", "pets"),
        ("/lr=0.1/first", "first"),
        ("./lr=0.1", None),
    ],
)
def test_a_model_is_named_by_its_folder_or_as_given(given, name):
    if name is None:
        with pytest.raises(VitloraError, match=r"got the name 'lr=0\.1'; .*, as in `pets=\./lr=0\.1`"):
            named(given)
        assert named(f"pets={given}")[0] == "pets"
    else:
        assert named(given) == (name, Path(given.removeprefix(f"{name}=")))


@pytest.mark.parametrize("given", ["a b=x", "/=x", "=x", "é=x", ".=x", "x" * 65 + "=x", "/", "a/b=/"])
def test_a_name_that_cannot_stand_in_an_address_is_refused(given):
    with pytest.raises(VitloraError, match="the rule: letters, digits, dots"):
        named(given)


@pytest.mark.parametrize(
    ("shares", "threshold", "sure"),
    [
        ([0.9, 0.1], 0.5, True),
        ([0.5, 0.5], 0.5, False),  # both reach it
        ([0.55, 0.45], 0.6, False),  # none does, and the set is of one class all the same
        ([0.2, 0.8], 0.2, False),
        ([0.2, 0.8], np.nextafter(np.float32(0.2), np.float32(1)), True),
        ([1, 0], 1.0, True),
        ([1, 0], 0.0, False),
        ([0.9, 0.1], None, None),
    ],
)
def test_an_answer_is_sure_where_exactly_one_class_reaches_the_threshold(shares, threshold, sure):
    one = replace(model(), threshold=threshold)
    answer = _told(one, Given("a"), np.array(shares, np.float32), 2, 0)
    assert (answer.sure, answer.prediction_set is None) == (sure, threshold is None)
    assert _told(one, Given("a"), Unreadable("a", "cut"), 2, 0).sure is None


def test_two_models_of_one_name_are_refused():
    with pytest.raises(VitloraError, match="two models are named b"):
        refuse_double(["a", "b", "c", "b"])
    refuse_double(["a", "b"])
