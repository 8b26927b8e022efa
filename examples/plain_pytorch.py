"""Fine-tunes a video model in a plain PyTorch loop: nothing here is flatzoo's but the model and the data.

    python examples/plain_pytorch.py --steps 60 --output finetuned

The model that ships with flatzoo tells sixteen motions apart; here it gets a fresh head and learns to name the pairs of
a motion and its reverse ("moves left" and "moves right" are both "moves sideways"). Clips are rendered while training.
"""
import argparse

import timm
import torch
from torch import nn
from torch.utils.data import DataLoader

import flatzoo.data.actions

PAIRS = [
    'moves sideways', 'moves up or down', 'changes its distance', 'comes or goes', 'turns', 'passes behind',
    'is picked up or put down', 'joins or separates',
]


def main(argv: list[str] | None = None) -> list[float]:
    """Trains, measures on held-out clips, saves; returns the loss of every step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='sifar_resnet10t', help='model with weights (%(default)s)')
    parser.add_argument('--steps', type=int, default=60)
    parser.add_argument('--batch-size', type=int, default=16)
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--output', help='folder for the fine-tuned model')
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    model = timm.create_model(args.model, pretrained=True, num_classes=len(PAIRS)).to(device)

    shape = dict(num_frames=model.num_frames, size=model.img_size[0])
    train_data = flatzoo.data.actions.ActionClips(args.steps * args.batch_size, **shape)
    test_data = flatzoo.data.actions.ActionClips(64, split='test', **shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    criterion = nn.CrossEntropyLoss()

    losses = []
    model.train()
    for clips, labels in DataLoader(train_data, args.batch_size, shuffle=True):  # uint8 [B, C, T, H, W]
        loss = criterion(model(clips.to(device)), labels.to(device) // 2)  # uint8 is normalised by the model
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if len(losses) % 10 == 0:
            print(f'step {len(losses)}/{args.steps}  loss {sum(losses[-10:]) / 10:.3f}')

    model.eval()
    with torch.inference_mode():
        hits = [
            (model(clips.to(device)).argmax(1).cpu() == labels // 2).float()
            for clips, labels in DataLoader(test_data, args.batch_size)
        ]
    print(f'accuracy on {len(test_data)} held-out clips: {torch.cat(hits).mean():.1%}')

    if args.output:
        from flatzoo.hub.push import save_pretrained
        save_pretrained(model, args.output, label_names=PAIRS)
        print(f'now try: flatzoo predict clip.mp4 --model {args.output}')
    return losses


if __name__ == '__main__':
    main()
