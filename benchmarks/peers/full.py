"""Full fine-tuning in the style of transformers' examples/pytorch/image-classification/run_image_classification.py.

All 86 million weights train. Data, batch and loader processes are those of the tutorial with workers, so that the two
differ in what is trained; a checkpoint, which holds the whole model and its optimiser, is timed apart.
"""

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

from peers import hub_data, trainers
from peers.job import Job
from peers.meter import Meter
from peers.recipe import loader_processes


def run(job: Job, meter: Meter) -> None:
    """Train every weight."""
    found = hub_data.load(job.data)
    names = found["train"].features["label"].names
    config = AutoConfig.from_pretrained(
        job.base,
        num_labels=len(names),
        id2label={str(number): name for number, name in enumerate(names)},
        label2id={name: str(number) for number, name in enumerate(names)},
    )
    model = AutoModelForImageClassification.from_pretrained(job.base, config=config, ignore_mismatched_sizes=True)
    processor = AutoImageProcessor.from_pretrained(job.base)
    train, val = hub_data.with_transforms(
        hub_data.repeated(found["train"], job.train_images),
        hub_data.repeated(found["validation"], job.val_images),
        processor.size["height"],
        processor.image_mean,
        processor.image_std,
    )
    batch, accumulation = job.steps
    args = TrainingArguments(
        output_dir="full",
        remove_unused_columns=False,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=3,
        load_best_model_at_end=True,
        learning_rate=2e-5,
        num_train_epochs=job.all_epochs,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        fp16=torch.cuda.is_available(),
        logging_strategy="steps",
        logging_steps=10,
        seed=1337,
        **loader_processes(job.loaders),
    )
    trainers.watch(meter)
    Trainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=val,
        compute_metrics=hub_data.accuracy,
        processing_class=processor,
        data_collator=hub_data.stack,
    ).train()
