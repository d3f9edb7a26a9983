"""How much a request may ask for, and what it is told when that is too much."""

from dataclasses import dataclass
from types import TracebackType
from typing import Any

from vitlora.core.text import printable
from vitlora.images.formats import MAX_PIXELS

HELD = 256_000_000  # bytes of bodies at one time, or one whole body where that is more


@dataclass(frozen=True)
class Limits:
    """Limits on what comes from outside.

    Attributes:
        body_bytes: Of one request, all its pictures together.
        pictures: Of one request.
        pixels: Of one picture.
        read_s: In so many seconds the body must be there.
        work_s: From then on, in so many seconds the answer; it covers fetching, waiting, decoding and scoring.
        requests: At work or waiting at one time; more are sent away at once.
    """

    body_bytes: int = 20_000_000
    pictures: int = 32
    pixels: int = MAX_PIXELS
    read_s: float = 10.0
    work_s: float = 30.0
    requests: int = 64

    @property
    def held_bytes(self) -> int:
        """Of all bodies that are in memory at one time."""
        return max(HELD, self.body_bytes)


class Refusal(Exception):  # noqa: N818 - an answer, no fault of ours
    """A request that is not done.

    Args:
        status: The HTTP status.
        got: What came, and where.
        rule: What is taken.
        cure: What to do.
        answers: Why each picture could not be read, where that is the reason.
    """

    def __init__(
        self, status: int, got: str, rule: str, cure: str, answers: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(status, got, rule, cure)
        self.status, self.answers = status, answers
        self.said = {"got": printable(got), "rule": printable(rule), "cure": printable(cure)}

    @property
    def body(self) -> dict[str, Any]:
        """The JSON that is sent: all in one line, as the Open Inference Protocol wants it, and its three parts."""
        said = self.said
        told = {"error": f"got {said['got']}; the rule: {said['rule']}; {said['cure']}", **said}
        return told if self.answers is None else {**told, "answers": self.answers}

    @property
    def headers(self) -> dict[str, str]:
        """What belongs to the status."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": "1"} if self.status == 503 else {}


def own_rule(reason: str, rule: str) -> tuple[str, str]:
    """Return why a picture can't be read, and the rule: the reason's own where it states one."""
    reason, _, own = reason.partition("; the rule: ")
    return reason, own or rule


class Room:
    """Places for requests at work; who finds none is sent away at once, so that the others stay quick."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.taken = 0

    def __enter__(self) -> None:
        if self.taken >= self.places:
            raise Refusal(
                503,
                f"a request while {self.taken} others are at work",
                f"at most {self.places} at one time",
                "send it again in a second",
            )
        self.taken += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.taken -= 1
