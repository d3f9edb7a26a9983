"""``vitlora serve`` under load: 10,000 requests of 32 clients, errors, times, and memory, beside the model's own time.

    nice -n -15 env PYTHONPATH=src python benchmarks/serve.py --photos FILE ... --out benchmarks/results/serve.json

Needs `hey` (apt-get install hey), which sends one picture a request as the whole body, 32 at one time, each client the
next as soon as it has its answer. Rounds of load and of the model by itself (a batch of 32 ready squares, in this
process, while the server is idle) take turns, since other work on the machine slows both. Memory is that of the server
and its decoders, resident, as Linux tells it, after a first load that is not counted.
"""

import argparse
import csv
import io
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from vitlora import Classifier
from vitlora.core.files import write_json

BATCH = 32
WARM = 960


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, nargs="+", required=True, help="pictures; each is sent to a new server")
    parser.add_argument("--model", type=Path, default=Path("models/export"))
    parser.add_argument("--decoders", type=int, nargs="+", default=[2, 1], help="processes that decode")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    before = os.getloadavg()[0]
    runs = [serve(args, photo, decoders) for photo in args.photos for decoders in args.decoders]
    from common import host, version  # loads torch

    versions = {name: version(name) for name in ("onnxruntime", "fastapi", "starlette", "uvicorn", "h11")}
    busy = {"load": [round(before, 1), round(os.getloadavg()[0], 1)], "nice": os.nice(0)}
    write_json(args.out, {"runs": runs, **busy, "serve_versions": versions, "host": host()})


def serve(args: argparse.Namespace, photo: Path, decoders: int) -> dict[str, object]:
    """Return one row of the results."""
    command = [sys.executable, "-m", "vitlora", "serve", str(args.model), "--port", "0", "--quiet"]
    command += ["--decoders", str(decoders)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://\S+", server.stdout.readline())[0] + "/predict"
        found = measure(args, photo, server.pid, address)
        counts = batches(address)
    finally:
        server.terminate()
        code = server.wait(60)
    found |= {"decoders": decoders, "batches": counts, "exit_code": code}
    print(found)
    return found


def measure(args: argparse.Namespace, photo: Path, server: int, address: str) -> dict[str, object]:
    """Return what the rounds gave."""
    load(photo, address, WARM, args.clients)
    model = Classifier(args.model)
    size = model.facts["image_size"]
    squares = np.random.default_rng(0).integers(0, 256, (BATCH, 3, size, size), np.uint8)
    memory, own, answers, rates, late = [memory_mb(server)], [], [], [], []
    for _ in range(args.rounds):
        own += own_times(model, squares)
        begun = time.perf_counter()
        now = load(photo, address, args.requests // args.rounds, args.clients)
        rates.append(len(now) / (time.perf_counter() - begun))
        answers += now
        late.append(sorted(seconds for seconds, _ in now)[int(len(now) * 0.99)])
        memory.append(memory_mb(server))
    own += own_times(model, squares)
    times = sorted(seconds for seconds, _ in answers)
    batch = statistics.median(own)
    with Image.open(photo) as image:
        about = f"{image.format} of {image.width} x {image.height} px, {photo.stat().st_size:,} bytes"
    return {
        "picture": about,
        "model": f"{args.model.name}, {size} px",
        "requests": len(answers),
        "clients": args.clients,
        "errors": sum(status != "200" for _, status in answers),
        "per_s": round(statistics.median(rates), 1),
        "per_s_rounds": [round(rate, 1) for rate in rates],
        "p50_s": round(times[len(times) // 2], 3),
        "p99_s": round(times[int(len(times) * 0.99)], 3),
        "p99_s_rounds": [round(each, 3) for each in late],
        "slowest_s": round(times[-1], 3),
        "own_batch_s": round(batch, 3),
        "own_batch_s_quartiles": [round(float(each), 3) for each in np.quantile(own, (0.25, 0.75))],
        "p99_in_own_batches": round(times[int(len(times) * 0.99)] / batch, 2),
        "memory_mb": memory,
    }


def own_times(model: Classifier, squares: np.ndarray) -> list[float]:
    """Return seconds of ten batches of the model by itself, after one that is not counted."""
    found = []
    for _ in range(11):
        begun = time.perf_counter()
        model.score(squares)
        found.append(time.perf_counter() - begun)
    return found[1:]


def load(photo: Path, address: str, count: int, clients: int) -> list[tuple[float, str]]:
    """Return seconds and status of each request; one without an answer has the status 0, and hey leaves it out."""
    hey = shutil.which("hey") or sys.exit("hey is not installed: apt-get install hey")
    count += -count % clients  # hey sends as many by each client
    command = [hey, "-n", str(count), "-c", str(clients), "-t", "60", "-o", "csv"]
    command += ["-m", "POST", "-T", "application/octet-stream", "-D", str(photo), address]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [(float(row["response-time"]), row["status-code"]) for row in csv.DictReader(io.StringIO(done.stdout))]
    return rows + [(60.0, "0")] * (count - len(rows))


def memory_mb(server: int) -> float:
    """Return resident megabytes of the server and its children."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        parent, size = (re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE) for name in ("PPid", "VmRSS"))
        if size and (int(status.parent.name) == server or int(parent[1]) == server):
            total += int(size[1])
    return round(total / 1000, 1)


def batches(address: str) -> dict[str, float]:
    """Return how many batches there were and how large they were on average."""
    from urllib.request import urlopen

    text = urlopen(address.replace("/predict", "/metrics")).read().decode()
    count, total = (
        sum(float(each) for each in re.findall(rf"^vitlora_batch_squares_{name}\{{.*\}} (\S+)$", text, re.MULTILINE))
        for name in ("count", "sum")
    )
    return {"count": int(count), "mean_squares": round(total / count, 1)}


if __name__ == "__main__":
    main()
