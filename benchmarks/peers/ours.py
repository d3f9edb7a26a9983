"""This project's train stage: the very function that `dvc repro` calls, with the parameters of a preset."""

from pathlib import Path

from peers import trainers
from peers.job import Job
from peers.meter import Meter
from vitlora.core.params import load_params, read_document
from vitlora.train.params import TrainStage
from vitlora.train.stage import train


def run(job: Job, meter: Meter, step: str, cuda_graph: bool = True) -> None:
    """Call the train stage; epochs and the kind of step differ from the preset, and what the command line asks for."""
    document = read_document(Path(job.params))
    asked = {
        "per_device_train_batch_size": job.batch,
        "per_device_eval_batch_size": job.batch,
        "gradient_accumulation_steps": job.accumulation,
        "dataloader_num_workers": job.workers,
    }
    document["train"].update({name: value for name, value in asked.items() if value is not None})
    document["train"].update(num_train_epochs=job.all_epochs, step=step, cuda_graph=cuda_graph)
    for key, value in job.changes.items():
        section, name = key.split(".")
        document[section][name] = value
    stage = load_params(TrainStage, document, Path(job.params))
    meter.notes.update(parameters=dict(stage.train))
    trainers.watch(meter)
    sections = (stage.augment, stage.lora, stage.train)
    inputs = (Path(job.base), Path(job.train), Path(job.val), Path(job.labels))
    train(*sections, *inputs, Path("adapter"), Path("train.json"), Path("plots")).checkpoints.remove()
