"""Part `weights`: copying a ModuleCNN's weights into a FunctionalCNN. 4 points."""

import cnn_reference as ref
import torch
from cnn_student import Net, find_roles
from gradescope_utils.autograder_utils.decorators import number, tags, weight

from autograder.suite import check
from autograder.suite.proxy import Student


def _two(student: Student, seed: int) -> tuple[Net, Net, ref.Weights]:
    source, target = Net(student, "ModuleCNN"), Net(student, "FunctionalCNN")
    source.model.verb("calm")
    source.model.eval()
    target.model.eval()
    weights = source.assign(ref.draw(seed))
    target.need()
    return source, target, weights


@weight(3)
@number("5.1")
@tags("weights", "values")
def test_copies(student: Student, seed: int) -> None:
    """After copy_weights both networks hold the same weights and give the same logits."""
    source, target, weights = _two(student, seed)
    old = target.weights()
    student.copy_weights(source.model, target.model)
    for role, value in source.weights().items():
        check.that(
            check.matches(value, weights[role], 0.0),
            f"Expected `copy_weights` to leave its source as it was; the {role} of the ModuleCNN changed.",
            "Likely cause: the direction of the copy; it goes from the first argument into the second.",
        )
    copied = target.weights()
    for role, value in weights.items():
        if role not in copied or role not in source.roles:
            continue
        unchanged = role in old and torch.equal(copied[role], old[role])
        check.close(
            copied[role],
            value,
            f"the {role} of the FunctionalCNN after `copy_weights`",
            tolerance=1e-6,
            help="It was not copied at all." if unchanged else "",
        )
    if source.roles.keys() == target.roles.keys() == ref.ROLES.keys():
        return  # they hold the same weights; what each computes from them is judged in its own part
    batch = ref.images(seed, 4)
    check.close(
        target.answer(batch),
        source.answer(batch).double(),
        "the FunctionalCNN's logits after `copy_weights`",
        tolerance=ref.logits(ref.REFERENCE, batch, weights)[1],
    )


@weight(1)
@number("5.2")
@tags("weights", "values")
def test_independent(student: Student, seed: int) -> None:
    """After copy_weights the two networks stay independent, and the copies stay parameters."""
    source, target, weights = _two(student, seed)
    kinds = {role: entry.kind for role, entry in target.roles.items()}
    student.copy_weights(source.model, target.model)
    for role, entry in find_roles(target.model).items():
        check.equal(
            entry.kind,
            kinds.get(role, entry.kind),
            f"what the {role} of the FunctionalCNN is kept as after `copy_weights`",
            "Copy the values: `with torch.no_grad(): parameter.copy_(other)`.",
        )
    copied = target.weights()
    source.assign({role: value + 1 for role, value in weights.items()})
    for role, value in target.weights().items():
        check.that(
            torch.equal(value, copied[role]),
            f"Expected the networks to be independent after `copy_weights`; changing the ModuleCNN's {role} changed the copy.",
            "Copy the values into the target's own parameters instead of assigning the source's tensors.",
        )
