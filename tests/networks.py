"""Networks as users bring them: plain modules that know nothing of distsim, for 8x8 grey images."""

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18


def small_resnet18(channels: int, size: int, classes: int) -> nn.Module:
    """torchvision's, with the first layers of small images."""
    network = resnet18(num_classes=classes)
    network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


class Functional(nn.Module):
    """ReLU, pooling and dropout are functions."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.hidden = nn.Linear(8 * (size // 2) ** 2, 16)
        self.last = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1)
        return 0.5 * self.last(F.dropout(F.relu(self.hidden(x)), 0.3, self.training))


class Block(nn.Module):
    """A transformer's: attention and a perceptron, after layer norms, each added to what came in."""

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.act = nn.GELU()
        self.drop = nn.Dropout(0.1)
        self.fc2 = nn.Linear(2 * width, width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        x = x + self.drop_path(self.attn(y, y, y, need_weights=False)[0])
        return x + self.drop_path(self.fc2(self.drop(self.act(self.fc1(self.norm2(x))))))


class DropPath(nn.Module):
    """timm's: a residual branch is left away, for each image by itself."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)


class Transformer(nn.Module):
    """A vision transformer as timm writes them; `layers` is its own name for its blocks."""

    def __init__(self, channels: int, size: int, classes: int, width: int = 12) -> None:
        super().__init__()
        self.patch = nn.Conv2d(channels, width, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 1 + (size // 4) ** 2, width))
        self.layers = nn.ModuleList([Block(width, 0.2) for _ in range(2)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        for block in self.layers:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Dropouts(nn.Module):
    """Every kind of dropout that torch has."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.drop1, self.drop2, self.drop3 = nn.Dropout1d(0.1), nn.Dropout2d(0.1), nn.Dropout3d(0.1)
        self.hidden = nn.Linear(8, 16)
        self.alpha, self.features, self.plain = nn.AlphaDropout(0.1), nn.FeatureAlphaDropout(0.1), nn.Dropout(0.1)
        self.last = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop2(self.relu(self.conv(x)))
        x = self.drop1(x.flatten(2)).unflatten(2, (1, *x.shape[2:]))
        x = self.hidden(self.drop3(x).mean((2, 3, 4)))
        return self.last(self.plain(self.features(self.alpha(self.relu(x)))))
