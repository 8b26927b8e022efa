"""Fine-tunes a video model with the Trainer of Hugging Face transformers, then classifies a file with its pipeline.

    pip install 'flatzoo[transformers]'
    python examples/transformers_trainer.py --steps 60 --output finetuned

The model that ships with flatzoo tells sixteen motions apart; here it gets a fresh head and learns to name the pairs of
a motion and its reverse ("moves left" and "moves right" are both "moves sideways"). What the Trainer saves is a
checkpoint for transformers, timm and flatzoo alike.
"""
import argparse
from pathlib import Path

import timm
import torch
from torch.utils.data import default_collate
from transformers import AutoModelForVideoClassification, AutoVideoProcessor, Trainer, TrainingArguments, pipeline

import flatzoo.hub.transformers  # noqa: F401 - registers models and processor with transformers
from flatzoo.data.actions import ActionClips, write_action
from flatzoo.hub.push import save_pretrained

PAIRS = [
    'moves sideways', 'moves up or down', 'changes its distance', 'comes or goes', 'turns', 'passes behind',
    'is picked up or put down', 'joins or separates',
]


def collate(batch: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    """Clips of flatzoo, uint8 `[C, T, H, W]`, as transformers wants them; the model normalises them itself."""
    clips, labels = default_collate(batch)
    return {'pixel_values': clips.transpose(1, 2), 'labels': labels // 2}


def main(argv: list[str] | None = None) -> list[float]:
    """Trains, measures on held-out clips, saves, classifies a file; returns the losses that the Trainer logged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--checkpoint', help='folder or Hub repository to start from (the model that ships)')
    parser.add_argument('--steps', type=int, default=60)
    parser.add_argument('--batch-size', type=int, default=16)
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--output', default='finetuned', help='folder for the fine-tuned model (%(default)s)')
    args = parser.parse_args(argv)

    checkpoint = args.checkpoint or str(Path(args.output, 'start'))
    if not args.checkpoint:
        save_pretrained(timm.create_model('sifar_resnet10t', pretrained=True), checkpoint)
    processor = AutoVideoProcessor.from_pretrained(checkpoint)
    model = AutoModelForVideoClassification.from_pretrained(
        checkpoint, num_labels=len(PAIRS), id2label=dict(enumerate(PAIRS)), ignore_mismatched_sizes=True)

    shape = dict(num_frames=processor.num_frames, size=processor.size['height'])
    trainer = Trainer(
        model,
        TrainingArguments(
            args.output, max_steps=args.steps, per_device_train_batch_size=args.batch_size, learning_rate=args.lr,
            per_device_eval_batch_size=args.batch_size, logging_steps=max(1, args.steps // 6), save_strategy='no',
            report_to='none', remove_unused_columns=False),
        data_collator=collate,
        train_dataset=ActionClips(args.steps * args.batch_size, **shape),
        eval_dataset=ActionClips(64, split='test', **shape),
        processing_class=processor,
        compute_metrics=lambda answers: {'accuracy': (answers.predictions.argmax(1) == answers.label_ids).mean()},
    )
    trainer.train()
    print(trainer.evaluate())
    trainer.save_model()

    clip = write_action(Path(args.output, 'clip.mp4'), 'turns clockwise', seed=0, split='test')
    print(pipeline('video-classification', model=args.output)(str(clip), top_k=3))
    print(f'now try: flatzoo predict {clip} --model {args.output}')
    return [entry['loss'] for entry in trainer.state.log_history if 'loss' in entry]


if __name__ == '__main__':
    main()
