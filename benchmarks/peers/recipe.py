"""What contestants share of PEFT's tutorial: its model, its arguments, and a loader with processes."""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageClassification, TrainingArguments


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
