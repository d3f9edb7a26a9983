"""The exported model as a Python object: pictures in, labels and probabilities out."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Literal, Self, cast, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.evaluate.scores import softmax
from vitlora.export.onnx_runtime import OnnxClassifier
from vitlora.images.formats import BadImageError
from vitlora.images.sandbox import Isolated
from vitlora.predict.exported import FILES, read_facts
from vitlora.predict.hub import located
from vitlora.predict.pictures import Picture, Square, Unreadable, name_of, opened, square

BATCH = 32
CHUNK = 4  # pictures sent to a process at a time
Item = bytes | Image.Image | Unreadable
Make = Callable[[Item], Square | Unreadable]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one picture.

    Attributes:
        name: The path or address of the picture; empty where it had none.
        label: The likeliest class.
        confidence: Its probability, 0 to 1, calibrated on the validation pictures.
        probabilities: Every class with its probability, likeliest first.
        prediction_set: The classes that hold the true one in the share of pictures that calibration promises, most
            often 95 %; likeliest first, never empty. None where the exported folder keeps no threshold.
    """

    name: str
    label: str
    confidence: float
    probabilities: dict[str, float]
    prediction_set: tuple[str, ...] | None


class PictureError(VitloraError):
    """A picture could not be read; the message names it and says why."""


class Classifier:
    """An exported model on the CPU, without torch.

        from vitlora import Classifier
        model = Classifier("models/export")
        model("cat.jpg").label

    Args:
        folder: What `dvc repro` exported: model.onnx, vitlora.json and MANIFEST.sha256. It is checked for damage.
            Or `hf://owner/name@commit`, which `vitlora push` put on the Hugging Face Hub.
        workers: Processes that decode. 0 decodes here. Others have a limit of memory and time and can crash without
            harm, so take some for pictures from strangers, and one a core for many; a script that does must have its
            own code below `if __name__ == "__main__":`, since such a process begins by importing it.
        allow_private: Read addresses inside your own network too.
        precision: `fp32`, or `fp16` or `int8` where the folder holds such a file: smaller, and not quite the same
            numbers; which is faster depends on the processor.

    Attributes:
        class_names: The classes, in the model's order.
        threshold: Least probability of a class in a prediction set; None where the folder keeps none.
        facts: All of vitlora.json.

    Raises:
        VitloraError: The folder holds no exported model, or a damaged one.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        workers: int = 0,
        allow_private: bool = False,
        precision: Literal["fp32", "fp16", "int8"] = "fp32",
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers: got {workers}; the rule: 0 or more")
        if precision not in FILES:
            raise ValueError(f"precision: got {precision!r}; the rule: {', '.join(FILES)}")
        self._allow_private = allow_private
        self._workers = workers
        self._processes = Isolated(workers) if workers else None  # first, so that they start while the model is read
        try:
            place = located(os.fspath(folder), precision)
            self.facts: dict[str, Any] = read_facts(place, precision)
            path = place / FILES[precision]
            self._onnx = OnnxClassifier(path, self.facts["image_mean"], self.facts["image_std"])
        except BaseException:
            self.close()
            raise
        self.class_names: list[str] = self.facts["class_names"]
        self.threshold: float | None = self.facts.get("calibration", {}).get("threshold")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the decoding processes, if there are any; they also end with this process."""
        if self._processes:
            self._processes.__exit__()
            self._processes = None

    @overload
    def __call__(self, pictures: Picture) -> Prediction: ...  # type: ignore[overload-overlap] # a str is str's too

    @overload
    def __call__(self, pictures: Iterable[Picture]) -> list[Prediction]: ...

    def __call__(self, pictures: Picture | Iterable[Picture]) -> Prediction | list[Prediction]:
        """Classify one picture, or several in batches.

        Args:
            pictures: A path, an http(s) address, a file's bytes, a PIL image, or an array uint8 (H, W, 3), RGB; or an
                iterable of them, such as an array (N, H, W, 3).

        Returns:
            A prediction, or a list of them in the same order.

        Raises:
            PictureError: A picture can't be read. ``each`` goes on with the others.
            TypeError, ValueError: It is no picture by its type, or an array of another shape or dtype.
        """
        one = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
        if isinstance(pictures, one) or (isinstance(pictures, np.ndarray) and pictures.ndim != 4):
            return self([cast(Picture, pictures)])[0]
        found = []
        for number, answer in enumerate(self.each(pictures)):
            if isinstance(answer, Unreadable):
                raise PictureError(printable(f"{answer.name or f'picture {number}'}: {answer.reason}"))
            found.append(answer)
        return found

    def each(self, pictures: Iterable[Picture]) -> Iterator[Prediction | Unreadable]:
        """Yield a prediction for every picture, or why it could not be read, in order.

        Pictures are taken a few batches ahead and no more, so there may be any number; they are decoded while the model
        works on those before.

        Raises:
            TypeError, ValueError: As when called; one picture in place of several.
        """
        if not isinstance(pictures, Iterable) or isinstance(pictures, str | bytes | os.PathLike):
            raise TypeError(f"got {type(pictures).__name__}; the rule: pictures in a list or another iterable")
        waiting: deque[tuple[list[tuple[str, Square | Unreadable]], Future[NDArray[np.float32]]]] = deque()
        with closing(self._squares(pictures)) as squares, ThreadPoolExecutor(1) as scorer:
            while batch := list(islice(squares, BATCH)):
                waiting.append((batch, scorer.submit(self._shares, [each for _, each in batch])))
                if len(waiting) > 1:
                    yield from self._answers(*waiting.popleft())
            while waiting:
                yield from self._answers(*waiting.popleft())

    def _squares(self, pictures: Iterable[Picture]) -> Generator[tuple[str, Square | Unreadable], None, None]:
        """Yield name and square of each picture, in order."""
        names: deque[str] = deque()
        make = partial(square, self.facts["image_size"], self.facts["interpolation"])
        items = self._opened(pictures, names)
        for each in self._in_processes(make, items) if self._workers else (_tried(make, item) for item in items):
            name = names.popleft()
            yield name, Unreadable(name, str(each)) if isinstance(each, BadImageError) else each

    def _in_processes(self, make: Make, items: Iterator[Item]) -> Iterator[Square | Unreadable | BadImageError]:
        """Yield what the processes make. Where nobody wants the rest they are replaced, for they are still at it."""
        if self._processes is None:
            raise RuntimeError(
                "the classifier is closed, or at work on other pictures; with workers, one call at a time"
            )
        processes, self._processes, done = self._processes, None, False
        try:
            yield from processes.map(make, items, CHUNK)
            done = True
        finally:
            if not done:
                processes.__exit__()
                processes = Isolated(self._workers)
            self._processes = processes

    def _opened(self, pictures: Iterable[Picture], names: deque[str]) -> Iterator[Item]:
        for picture in pictures:
            item = opened(picture, self._allow_private)
            names.append(name_of(picture))
            yield item

    def _shares(self, squares: list[Square | Unreadable]) -> NDArray[np.float32]:
        """Return probabilities, float32 (N, C), of those that are squares."""
        kept = [each for each in squares if not isinstance(each, Unreadable)]
        if not kept:
            return np.zeros((0, len(self.class_names)), np.float32)
        return self.score(np.stack(kept))

    def score(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities, float32 (N, C), of ready squares, uint8 (N, 3, size, size)."""
        return softmax(self._onnx.score(squares, BATCH))

    def _answers(
        self, batch: list[tuple[str, Square | Unreadable]], shares: Future[NDArray[np.float32]]
    ) -> Iterator[Prediction | Unreadable]:
        rows = iter(shares.result())
        for name, each in batch:
            if isinstance(each, Unreadable):
                yield each
            else:
                yield prediction(name, next(rows), self.class_names, self.threshold)


def prediction(name: str, shares: NDArray[np.float32], class_names: list[str], threshold: float | None) -> Prediction:
    """Say in words what probabilities, float32 (C,), mean.

    Args:
        name: Of the picture.
        shares: The probabilities, in the order of ``class_names``.
        class_names: The classes.
        threshold: Least probability of a class in the prediction set; None for no set.
    """
    order = np.argsort(-shares, kind="stable")
    found = {class_names[label]: float(shares[label]) for label in order}
    label, confidence = next(iter(found.items()))
    held = None
    if threshold is not None:  # as evaluate.calibration.prediction_sets, in float32 too; that needs SciPy
        held = (label, *(class_names[each] for each in order[1:] if shares[each] >= threshold))
    return Prediction(name, label, confidence, found, held)


def _tried(make: Make, item: Item) -> Square | Unreadable | BadImageError:
    try:
        return make(item)
    except BadImageError as error:
        return error
