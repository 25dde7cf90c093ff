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
        self.conv1 = nn.Conv2d(1, 16, 5)
        self.conv2 = nn.Conv2d(16, 32, 5)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(p)
        self.fc = nn.Linear(512, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = self.dropout(x)
        return self.fc(x)


class FunctionalCNN(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        self.p = p
        self.w1 = nn.Parameter(torch.empty(16, 1, 5, 5))
        self.b1 = nn.Parameter(torch.empty(16))
        self.w2 = nn.Parameter(torch.empty(32, 16, 5, 5))
        self.b2 = nn.Parameter(torch.empty(32))
        self.w3 = nn.Parameter(torch.empty(10, 512))
        self.b3 = nn.Parameter(torch.empty(10))
        for w, b in ((self.w1, self.b1), (self.w2, self.b2), (self.w3, self.b3)):
            init(w, b)

    def forward(self, x):
        h = F.max_pool2d(F.relu(F.conv2d(x, self.w1, self.b1)), 2)
        h = F.max_pool2d(F.relu(F.conv2d(h, self.w2, self.b2)), 2)
        h = h.view(h.size(0), -1)
        h = F.dropout(h, self.p, training=self.training)
        return F.linear(h, self.w3, self.b3)


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
        self.p = p
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.empty(out_channels))
        init(self.weight, self.bias)
        self.gamma = nn.Parameter(torch.ones(out_channels))
        self.beta = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("running_mean", torch.zeros(out_channels))
        self.register_buffer("running_var", torch.ones(out_channels))

    def forward(self, x):
        x = F.conv2d(x, self.weight, self.bias, padding=1)
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.gamma, self.beta, training=self.training, momentum=0.1, eps=1e-5
        )
        x = F.max_pool2d(F.relu(x), 2)
        return F.dropout(x, self.p, training=self.training)


def copy_weights(source, target):
    with torch.no_grad():
        target.w1.copy_(source.conv1.weight)
        target.b1.copy_(source.conv1.bias)
        target.w2.copy_(source.conv2.weight)
        target.b2.copy_(source.conv2.bias)
        target.w3.copy_(source.fc.weight)
        target.b3.copy_(source.fc.bias)


def train_epoch(model, batches, optimizer, device):
    # the case: no model.to(device)
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
