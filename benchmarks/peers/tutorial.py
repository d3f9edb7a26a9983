"""PEFT's image-classification tutorial, with the names that today's libraries have.

`processing_class` and `q_proj, v_proj` stand for `tokenizer` and `query, value`. All else is its structure and its
values: `datasets` with a transform on the fly, the processor's mean, std and size, batch 128 accumulated four times,
fp16, learning rate 5e-3, no loader processes. With ``workers`` the loader gets processes that stay, pinned memory and
four batches ahead each; nothing else changes.

Source:
    huggingface.co/docs/peft/task_guides/lora_based_methods
"""

from typing import Any

from transformers import AutoImageProcessor, Trainer, TrainingArguments

from peers import hub_data, trainers
from peers.job import Job
from peers.meter import Meter
from peers.recipe import adapted, arguments, loader_processes


def run(job: Job, meter: Meter, workers: bool) -> None:
    """Train as the tutorial does."""
    found = hub_data.load(job.data)
    train, val = (
        hub_data.repeated(found[name], count)
        for name, count in (("train", job.train_images), ("validation", job.val_images))
    )
    processor = AutoImageProcessor.from_pretrained(job.base)
    train, val = hub_data.with_transforms(
        train, val, processor.size["height"], processor.image_mean, processor.image_std
    )
    model = adapted(job.base, found["train"].features["label"].names, 16, 0.1)
    batch, accumulation = job.steps
    args = arguments(
        num_train_epochs=job.all_epochs,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        **(loader_processes(job.loaders) if workers else {}),
    )
    trainers.watch(meter)
    trainer(model, args, train, val, processor).train()


def trainer(model: Any, args: TrainingArguments, train: Any, val: Any, processor: Any) -> Trainer:
    """Put the parts together."""
    return Trainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=val,
        processing_class=processor,
        data_collator=hub_data.stack,
        compute_metrics=hub_data.accuracy,
    )
