"""Draw docs/result.png from a finished built-in run: ten test digits with what was predicted, and the curve.

`make repro`, then `PYTHONPATH=src .venv/bin/python docs/picture.py`.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from vitlora.core.files import read_csv, read_json
from vitlora.storage.squares import load_split

ROOT = Path(__file__).parents[1]
GREEN, RED = "#2e7d32", "#c62828"
SHOWN = 10  # the first right one of each class, as far as the wrong ones leave room
WRONG = 3  # the surest of them


def main() -> None:
    """Write the picture."""
    squares = load_split(ROOT / "data/prepared/test")
    rows = read_csv(ROOT / "metrics/evaluate/predictions.csv")
    epochs = read_csv(ROOT / "metrics/train/plots/epochs.csv")
    scores = read_json(ROOT / "metrics/evaluate/scores.json")
    wrong = [number for number, row in enumerate(rows) if row["predicted"] != row["actual"]]
    worst = sorted(wrong, key=lambda number: -float(rows[number]["confidence"]))[:WRONG]
    right = {row["actual"]: number for number, row in reversed(list(enumerate(rows))) if number not in wrong}
    chosen = [*(number for _, number in sorted(right.items())[: SHOWN - len(worst)]), *worst]
    figure = pyplot.figure(figsize=(11, 3.1), layout="constrained")
    left, curve = figure.subfigures(1, 2, width_ratios=(1.55, 1))
    for axes, number in zip(left.subplots(2, 5).flat, chosen, strict=True):
        row = rows[number]
        colour = GREEN if row["predicted"] == row["actual"] else RED
        axes.imshow(squares.images[number].transpose(1, 2, 0))
        note = "" if colour == GREEN else f", is {row['actual']}"
        axes.set_title(f"{row['predicted']}{note}  {float(row['confidence']):.0%}", color=colour, fontsize=11)
        axes.axis("off")
    axes = curve.subplots()
    numbers = [int(row["epoch"]) for row in epochs]
    axes.plot(numbers, [float(row["val_accuracy"]) for row in epochs], "o-", color=GREEN, label="validation accuracy")
    axes.plot(numbers, [float(row["val_loss"]) for row in epochs], "o-", color="0.4", label="validation loss")
    axes.set(xlabel="epoch", xticks=numbers, ylim=(0, 1.03))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(loc="center right", frameon=False)
    right_of = f"{scores['images'] - len(wrong)} of {scores['images']} test digits are right"
    axes.set_title(f"accuracy {scores['accuracy']:.3f}: {right_of}", fontsize=11)
    figure.savefig(ROOT / "docs/result.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
