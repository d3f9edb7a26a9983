"""PEFT's image-classification tutorial, with the names that today's libraries have.

`processing_class` and `q_proj, v_proj` stand for `tokenizer` and `query, value`. All else is its structure and its
values: `datasets` with a transform on the fly, the processor's mean, std and size, batch 128 accumulated four times,
fp16, learning rate 5e-3, no loader processes. With ``workers`` the loader gets processes that stay, pinned memory and
four batches ahead each; nothing else changes.

Source:
    huggingface.co/docs/peft/task_guides/lora_based_methods
"""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

from peers import hub_data, trainers
from peers.job import Job
from peers.meter import Meter


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


def adapted(base: str, class_names: list[str], r: int, dropout: float) -> Any:
    """Load the model with a new head and put LoRA on query and value."""
    ids = dict(enumerate(class_names))
    model = AutoModelForImageClassification.from_pretrained(
        base, id2label=ids, label2id={name: number for number, name in ids.items()}, ignore_mismatched_sizes=True
    )
    new = any(name.endswith(".q_proj") for name, _ in model.named_modules())
    config = LoraConfig(
        r=r,
        lora_alpha=16,
        target_modules=["q_proj", "v_proj"] if new else ["query", "value"],
        lora_dropout=dropout,
        bias="none",
        modules_to_save=["classifier"],
    )
    return get_peft_model(model, config)


def arguments(**changes: Any) -> TrainingArguments:
    """Return the tutorial's arguments with some changed."""
    return TrainingArguments(
        **{
            "output_dir": "vit-lora",
            "remove_unused_columns": False,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "learning_rate": 5e-3,
            "per_device_train_batch_size": 128,
            "gradient_accumulation_steps": 4,
            "per_device_eval_batch_size": 128,
            "fp16": torch.cuda.is_available(),
            "num_train_epochs": 5,
            "logging_steps": 10,
            "load_best_model_at_end": True,
            "label_names": ["labels"],
            **changes,
        }
    )


def loader_processes(workers: int) -> dict[str, Any]:
    """Return the arguments that let loader processes work ahead."""
    return {
        "dataloader_num_workers": workers,
        "dataloader_persistent_workers": True,
        "dataloader_pin_memory": True,
        "dataloader_prefetch_factor": 4,
    }


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
