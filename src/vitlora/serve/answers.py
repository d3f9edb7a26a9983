"""What the routes answer, as OpenAPI describes it."""

from pydantic import BaseModel, ConfigDict, Field

from vitlora.predict.classifier import Prediction
from vitlora.predict.pictures import Unreadable


class Share(BaseModel):
    """A class and its probability."""

    model_config = ConfigDict(populate_by_name=True)
    name: str = Field(alias="class")
    confidence: float = Field(description="0 to 1")


class Answer(BaseModel):
    """What the model says of one picture, or why it could not be read."""

    image: str = Field(description="the file's name or the address; empty where the picture had none")
    label: str | None = Field(None, description='the likeliest class; null for "don\'t know" and for an unread picture')
    predictions: list[Share] = Field([], description="likeliest first")
    prediction_set: list[str] | None = Field(
        None,
        description="the classes that hold the true one as often as calibration promises; null without a threshold",
    )
    sure: bool | None = Field(
        None, description="whether exactly one class reaches the model's threshold; null without a threshold"
    )
    error: str | None = Field(None, description="why the picture could not be read")


class Answers(BaseModel):
    """One answer a picture, in order."""

    model: str
    answers: list[Answer]


class Fault(BaseModel):
    """A request that is not done."""

    error: str = Field(description="all of it in one line")
    got: str
    rule: str
    cure: str


class ModelFacts(BaseModel):
    """A model that is served."""

    name: str
    platform: str
    classes: list[str]
    image_size: int = Field(description="side of the square that it sees, px")
    threshold: float | None = Field(description="least probability of a class in a prediction set")


class Models(BaseModel):
    """All models; the first answers where none is named."""

    models: list[ModelFacts]


class Health(BaseModel):
    """That the service can answer."""

    status: str = "ok"
    version: str


def told(found: Prediction | Unreadable, top: int, threshold: float, sure: bool | None = None) -> Answer:
    """Return an answer.

    Args:
        found: Of one picture.
        top: Number of classes.
        threshold: Below this confidence, 0 to 1, there is no label.
        sure: As ``Answer`` has it.
    """
    if isinstance(found, Unreadable):
        return Answer(image=found.name, error=found.reason)
    likeliest = list(found.probabilities.items())[:top]
    return Answer(
        image=found.name,
        label=found.label if found.confidence >= threshold else None,
        predictions=[Share(name=name, confidence=round(share, 6)) for name, share in likeliest],
        prediction_set=None if found.prediction_set is None else list(found.prediction_set),
        sure=sure,
    )


class Unread(Fault):
    """A request none of whose pictures could be read; without ``answers`` where another value is wrong."""

    answers: list[Answer] | None = None


class HeatMap(BaseModel):
    """What the model looked at."""

    model: str
    explained: Share
    square: str = Field(description="what the model sees of the picture: a PNG as a data address")
    values: list[list[float]] = Field(
        description="rows from the top of the square that the model sees: by how much the natural logarithm of the "
        "probability falls when that cell and half of each neighbour are grey"
    )
