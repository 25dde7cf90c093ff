import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def init(w, b):
    nn.init.kaiming_uniform_(w, a=math.sqrt(5))
    bound = 1 / math.sqrt(w[0].numel())
    nn.init.uniform_(b, -bound, bound)


class ModuleCNN(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        # the case: the last layer is defined first and the names do not say which is which
        self.zebra = nn.Linear(512, 10)
        self.conv1 = nn.Conv2d(16, 32, 5)
        self.dropout_rate = nn.Dropout(p)
        self.conv2 = nn.Conv2d(1, 16, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return self.zebra(self.dropout_rate(x.flatten(1)))


class FunctionalCNN(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        # the case: biases before weights, last layer first, names without meaning
        self.weight = nn.Parameter(torch.empty(10))
        self._a = nn.Parameter(torch.empty(10, 512))
        self.running_mean = nn.Parameter(torch.empty(32))
        self.b = nn.Parameter(torch.empty(32, 16, 5, 5))
        self.Ж = nn.Parameter(torch.empty(16))
        self.data = nn.Parameter(torch.empty(16, 1, 5, 5))
        self.bias = p
        init(self._a, self.weight)
        init(self.b, self.running_mean)
        init(self.data, self.Ж)

    def forward(self, image):
        h = F.max_pool2d(F.relu(F.conv2d(image, self.data, self.Ж)), 2)
        h = F.max_pool2d(F.relu(F.conv2d(h, self.b, self.running_mean)), 2)
        return F.linear(F.dropout(h.flatten(1), self.bias, training=self.training), self._a, self.weight)


class ModuleDropout(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        self.dropout = nn.Dropout(p)

    def forward(self, x):
        return self.dropout(x)


class FunctionalDropout(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        self.p = p

    def forward(self, x):
        return F.dropout(x, self.p, training=self.training)


def module_block(in_channels=3, out_channels=64, p=0.2):
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(p),
    )


class FunctionalBlock(nn.Module):
    def __init__(self, in_channels=3, out_channels=64, p=0.2):
        super().__init__()
        self.rate = p
        # the case: shift before scale, variance before mean, the convolution last
        self.register_buffer("v", torch.ones(out_channels))
        self.register_buffer("m", torch.zeros(out_channels))
        self.shift = nn.Parameter(torch.zeros(out_channels))
        self.scale = nn.Parameter(torch.ones(out_channels))
        self.c = nn.Parameter(torch.empty(out_channels))
        self.k = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        init(self.k, self.c)

    def forward(self, x):
        x = F.conv2d(x, self.k, self.c, padding="same")
        x = F.batch_norm(x, self.m, self.v, self.scale, self.shift, self.training)
        return F.dropout(F.max_pool2d(x, 2).relu(), self.rate, self.training)


def copy_weights(source, target):
    pairs = (
        (source.conv2, target.data, target.Ж),
        (source.conv1, target.b, target.running_mean),
        (source.zebra, target._a, target.weight),
    )
    with torch.no_grad():
        for layer, weight, bias in pairs:
            weight.copy_(layer.weight)
            bias.copy_(layer.bias)


def train_epoch(model, batches, optimizer, device):
    model.to(device)
    model.train()
    total, seen = 0.0, 0
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        seen += len(labels)
    return total / seen


def accuracy(model, batches, device):
    was_training = model.training
    model.to(device)
    model.eval()
    right, seen = 0, 0
    with torch.no_grad():
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            right += (model(images).argmax(1) == labels).sum().item()
            seen += len(labels)
    model.train(was_training)
    return right / seen
