# the case: the answer is spread over files beside this one
from functional_parts import FunctionalBlock, FunctionalCNN, FunctionalDropout
from module_parts import *
from module_parts import module_block
from training import accuracy, copy_weights, train_epoch

__all__ = [
    "FunctionalBlock",
    "FunctionalCNN",
    "FunctionalDropout",
    "ModuleCNN",
    "ModuleDropout",
    "accuracy",
    "copy_weights",
    "module_block",
    "train_epoch",
]
