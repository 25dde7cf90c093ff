# the case: other names for everything, and F bound to something that is not torch.nn.functional
from math import sqrt

import torch as T
import torch.nn.functional as Fn
from torch import nn as layers
from torch.nn import Conv2d, Module as Net, Parameter as P, init as start
from torch.nn.functional import conv2d as conv, dropout as forget, linear
from torch.nn.init import kaiming_uniform_


def init(w, b):
    kaiming_uniform_(w, a=sqrt(5))
    bound = 1 / sqrt(w[0].numel())
    start.uniform_(b, -bound, bound)


class ModuleCNN(Net):
    def __init__(self, p=0.5):
        super().__init__()
        self.conv1 = Conv2d(1, 16, 5)
        self.conv2 = Conv2d(16, 32, 5)
        self.pool = layers.MaxPool2d(2)
        self.dropout = layers.Dropout(p)
        self.fc = layers.Linear(512, 10)

    def forward(self, x):
        x = self.pool(Fn.relu(self.conv1(x)))
        x = self.pool(Fn.relu(self.conv2(x)))
        x = T.flatten(x, 1)
        x = self.dropout(x)
        return self.fc(x)


class FunctionalCNN(Net):
    def __init__(self, p=0.5):
        super().__init__()
        self.p = p
        self.w1 = P(T.empty(16, 1, 5, 5))
        self.b1 = P(T.empty(16))
        self.w2 = P(T.empty(32, 16, 5, 5))
        self.b2 = P(T.empty(32))
        self.w3 = P(T.empty(10, 512))
        self.b3 = P(T.empty(10))
        for w, b in ((self.w1, self.b1), (self.w2, self.b2), (self.w3, self.b3)):
            init(w, b)

    def forward(self, x):
        h = Fn.max_pool2d(Fn.relu(conv(x, self.w1, self.b1)), 2)
        h = Fn.max_pool2d(Fn.relu(conv(h, self.w2, self.b2)), 2)
        h = h.view(h.size(0), -1)
        h = forget(h, self.p, training=self.training)
        return linear(h, self.w3, self.b3)


class ModuleDropout(Net):
    def __init__(self, p=0.5):
        super().__init__()
        self.dropout = layers.Dropout(p)

    def forward(self, x):
        return self.dropout(x)


class FunctionalDropout(Net):
    def __init__(self, p=0.5):
        super().__init__()
        self.p = p

    def forward(self, x):
        return forget(x, self.p, training=self.training)


def module_block(in_channels=3, out_channels=64, p=0.2):
    return layers.Sequential(
        Conv2d(in_channels, out_channels, 3, padding=1),
        layers.BatchNorm2d(out_channels),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Dropout(p),
    )


class FunctionalBlock(Net):
    def __init__(self, in_channels=3, out_channels=64, p=0.2):
        super().__init__()
        self.p = p
        self.weight = P(T.empty(out_channels, in_channels, 3, 3))
        self.bias = P(T.empty(out_channels))
        init(self.weight, self.bias)
        self.gamma = P(T.ones(out_channels))
        self.beta = P(T.zeros(out_channels))
        self.register_buffer("running_mean", T.zeros(out_channels))
        self.register_buffer("running_var", T.ones(out_channels))

    def forward(self, x):
        x = conv(x, self.weight, self.bias, padding=1)
        x = Fn.batch_norm(
            x, self.running_mean, self.running_var, self.gamma, self.beta, training=self.training, momentum=0.1, eps=1e-5
        )
        x = Fn.max_pool2d(Fn.relu(x), 2)
        return forget(x, self.p, training=self.training)


def copy_weights(source, target):
    with T.no_grad():
        target.w1.copy_(source.conv1.weight)
        target.b1.copy_(source.conv1.bias)
        target.w2.copy_(source.conv2.weight)
        target.b2.copy_(source.conv2.bias)
        target.w3.copy_(source.fc.weight)
        target.b3.copy_(source.fc.bias)


def train_epoch(model, batches, optimizer, device):
    model.to(device)
    model.train()
    total, seen = 0.0, 0
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = Fn.cross_entropy(model(images), labels)
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
    with T.no_grad():
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            right += (model(images).argmax(1) == labels).sum().item()
            seen += len(labels)
    model.train(was_training)
    return right / seen


F = "not torch.nn.functional"
