"""A minimal script with Lightning's defaults, to compare start-up with: the digits, train.py's network, one epoch."""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Classifier(lightning.LightningModule):  # type: ignore[misc]
    """Three blocks of convolution, batch norm, ReLU and pooling, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for width_in, width in ((1, 32), (32, 64), (64, 128)):
            blocks += [nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            blocks.append(nn.MaxPool2d(2))
        self.network = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(128, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """The loss of one batch."""
        images, labels = batch
        loss = F.cross_entropy(self.network(images), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW as train.py has it."""
        return torch.optim.AdamW(self.parameters(), lr=0.003)


if __name__ == "__main__":
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    loader = DataLoader(TensorDataset(images, torch.tensor(bunch.target)), batch_size=128, shuffle=True)
    lightning.Trainer(max_epochs=1).fit(Classifier(), loader)
