"""Train a small vision transformer in one place; set pictures of another kind apart for clients.

    sudo apt-get install dataset-fashion-mnist
    python pretrain.py           # with the four IDX files elsewhere: python pretrain.py FOLDER
    fedloom simulate federate.toml

Writes `vit/`, a model in transformers' format, and `shifted.npz`: pictures that the model has not
seen, inverted (white ground) and turned on their side. On them it is as good as lost.
"""

import gzip
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import ViTConfig, ViTForImageClassification

HERE = Path(__file__).parent
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PUBLIC, TRAIN, TEST, EPOCHS = 15_000, 8_000, 1_500, 4
Pixels = NDArray[np.uint8]


def read_idx(path: Path, header: int) -> Pixels:
    """The bytes of an IDX file after its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def read_part(folder: Path, part: str) -> tuple[Pixels, Pixels]:
    """Pictures ``[N, 28, 28]`` and classes ``[N]`` of ``train`` or ``t10k``."""
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    return images, read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 8)


def shift(images: Pixels) -> Pixels:
    """Inverted, and turned by a quarter."""
    return np.ascontiguousarray(np.rot90(255 - images, axes=(1, 2)))


def as_input(images: Pixels) -> torch.Tensor:
    """Pixels in [-1, 1], as fedloom feeds them."""
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1)[:, None]


def pretrain(images: Pixels, labels: Pixels) -> ViTForImageClassification:
    """Ordinary training in one place."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=28, patch_size=7, num_channels=1, num_labels=10,
        hidden_size=96, num_hidden_layers=4, num_attention_heads=4, intermediate_size=192,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    x, y = as_input(images), torch.from_numpy(labels.astype(np.int64))
    steps = EPOCHS * (len(x) // 128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step, rows in enumerate(torch.randint(len(x), (steps, 128))):
        loss = model(pixel_values=x[rows], labels=y[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}/{steps}: loss {loss.item():.3f}")
    return model.eval()


def accuracy(model: ViTForImageClassification, images: Pixels, labels: Pixels) -> float:
    """Share of pictures in the right class."""
    with torch.no_grad():
        found = model(pixel_values=as_input(images)).logits.argmax(-1).numpy()
    return float((found == labels).mean())


def main() -> None:
    torch.set_num_threads(1)  # products are so small that threads would wait for each other
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DEBIAN
    if not (folder / "train-images-idx3-ubyte.gz").is_file():
        sys.exit(f"{folder}: no Fashion-MNIST here; {__file__} says where to get it")
    began = time.monotonic()
    images, labels = read_part(folder, "train")
    model = pretrain(images[:PUBLIC], labels[:PUBLIC])
    model.save_pretrained(HERE / "vit")
    tests, answers = (part[:TEST] for part in read_part(folder, "t10k"))
    own = slice(PUBLIC, PUBLIC + TRAIN)
    np.savez_compressed(
        HERE / "shifted.npz",
        pixels=shift(np.concatenate([images[own], tests])),
        label=np.concatenate([labels[own], answers]),
        test=np.repeat(np.array([0, 1], np.uint8), [TRAIN, TEST]),
    )
    print(f"{time.monotonic() - began:.0f} s; accuracy {accuracy(model, tests, answers):.1%}")
    print(f"on shifted pictures {accuracy(model, shift(tests), answers):.1%}")


if __name__ == "__main__":
    main()
