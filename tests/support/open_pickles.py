"""Tries every pickle at every place where a model or data could be read; prints what was not refused, and what ran.

python tests/support/open_pickles.py FOLDER
"""

import json
import pickle
import shutil
import sys
import warnings
from pathlib import Path

from foreign import GOOD, fill, take
from pickles import as_array, as_checkpoint, pickles
from tiny import LORA, make_base

from vitlora.core.errors import VitloraError
from vitlora.export.onnx_runtime import OnnxClassifier
from vitlora.images.pixels import BadImageError, decode
from vitlora.model.adapters import add_adapter, load_adapter, save_adapter
from vitlora.model.base import load_base, read_normalisation
from vitlora.model.params import Lora
from vitlora.storage.labels import Labels
from vitlora.storage.squares import load_split

WATCHED = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pty.spawn"}
WATCHED |= {"pickle.find_class", "webbrowser.open", "ctypes.dlopen", "os.putenv", "socket.connect"}
LABELS = Labels(["cat", "dog"], 32, "bilinear")
events, armed = [], False


def hook(event, args):
    if armed and event in WATCHED:
        events.append((event, str(args)[:80]))


def prepare(root):
    make_base(root / "base")
    model, fresh = load_base(root / "base", LABELS.class_names, 32)
    adapted = add_adapter(model, fresh, Lora(**LORA), 10).model
    save_adapter(adapted, root / "adapter", root / "base", LABELS, read_normalisation(root / "base"), {})
    load_adapter(root / "base", root / "adapter")  # everything is imported now


def places(root):
    """Return what reads some bytes as each kind of file; each leaves its files in ``root/try``."""

    def copy(source, name, data):
        folder = root / "try"
        shutil.copytree(root / source, folder)
        for old in folder.glob("*.safetensors"):
            old.unlink()
        (folder / name).write_bytes(data)
        return folder

    def dataset(data):
        load_split(fill(root / "try", {"index.csv": b"path,label,sha256\na,0,b\n", "images.npy": as_array(data)}))

    def model(name, data):
        take(fill(root / "try", {**GOOD, "model.safetensors": None, name: data}), root / "out")

    def base(name, data):
        load_base(copy("base", name, data), LABELS.class_names, 32)

    def adapter(name, data):
        load_adapter(root / "base", copy("adapter", name, data))

    def onnx(data):
        OnnxClassifier(fill(root / "try", {"model.onnx": data}) / "model.onnx", [0.5], [0.5])

    return {
        "model, pickled": lambda data: model("pytorch_model.bin", as_checkpoint(data)),
        "model, as safetensors": lambda data: model("model.safetensors", data),
        "base, pickled": lambda data: base("pytorch_model.bin", as_checkpoint(data)),
        "base, as safetensors": lambda data: base("model.safetensors", data),
        "adapter, pickled": lambda data: adapter("adapter_model.bin", as_checkpoint(data)),
        "adapter, as safetensors": lambda data: adapter("adapter_model.safetensors", data),
        "squares": dataset,
        "picture": decode,
        "onnx": onnx,
    }


def not_refused(root):
    """Yield the name of every pickle and place that was read, refused in two lines, or copied beside a good model."""
    global armed
    for name, data in pickles(str(root / "mark")).items():
        for place, read in places(root).items():
            armed = True
            try:
                read(data)
                yield f"{name}: {place}"
            except (VitloraError, BadImageError) as error:
                if "\n" in str(error):
                    yield f"{name}: {place}: two lines"
            finally:
                armed = False
                shutil.rmtree(root / "try", ignore_errors=True)
        others = {"pytorch_model.bin": as_checkpoint(data), "training_args.bin": data, "modeling.py": b"1/0"}
        take(fill(root / "try", {**GOOD, **others}), root / "out")
        if sorted(path.name for path in (root / "out").iterdir()) != sorted([*GOOD, "image.json"]):
            yield f"{name}: copied"
        shutil.rmtree(root / "try")
        shutil.rmtree(root / "out")


def main(root):
    global armed
    sys.addaudithook(hook)
    warnings.simplefilter("ignore")
    prepare(root)
    taken = list(not_refused(root))
    quiet = list(events)
    armed = True
    pickle.loads(pickles("/dev/null")["os.system"])
    armed = False
    control = len(events) - len(quiet)
    print(json.dumps({"taken": taken, "events": quiet, "mark": (root / "mark").exists(), "control": control}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
