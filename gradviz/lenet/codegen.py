"""The PyTorch program of a run: its net and its loop and nothing else, to read, copy and run without gradviz."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

from gradviz.lenet.activations import ACTIVATIONS, critical_start
from gradviz.lenet.config import RunConfig
from gradviz.lenet.data import DIGITS_TRAIN, TORCHVISION_CLASS
from gradviz.lenet.idx import FOLDERS, PIXELS
from gradviz.lenet.net import LSUV_TOLERANCE, lsuv_images
from gradviz.lenet.pace import PACED, share_code
from gradviz.record.arithmetic import Arithmetic, arithmetic_text
from gradviz.train.treatment import FEEDBACK_GAIN
from gradviz.words import gettext as _

# What stands in «» is for people: `_said` puts it into the reader's language.

_DRAW = {
    "he-normal": 'nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=random)',
    "he-uniform": 'nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=random)',
    "xavier-normal": "nn.init.xavier_normal_(layer.weight, generator=random)",
    "xavier-uniform": "nn.init.xavier_uniform_(layer.weight, generator=random)",
    "orthogonal": "nn.init.orthogonal_(layer.weight, {gain}, generator=random)",
    "lsuv": "nn.init.orthogonal_(layer.weight, {gain}, generator=random)",
}
_DEVICE = {"auto": '"cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"'}
_OPTIMIZER = {
    "adam": "torch.optim.Adam(model.parameters(), lr={lr!r}, fused={fused})",
    "sgd": "torch.optim.SGD(model.parameters(), lr={lr!r}, fused={fused})",
    "momentum": "torch.optim.SGD(model.parameters(), lr={lr!r}, momentum=0.9, fused={fused})",
}
_TREATMENT = {
    "none": "",
    "clip-norm": "    nn.utils.clip_grad_norm_(model.parameters(), {threshold})\n",
    "clip-value": "    nn.utils.clip_grad_value_(model.parameters(), {threshold})\n",
    "floor": """\
    for parameter in model.parameters():
        gradient = parameter.grad
        raised = torch.where(gradient < 0, -{threshold}, {threshold})  # «by its sign; 0 counts as positive»
        parameter.grad = torch.where(gradient.abs() < {threshold}, raised, gradient)
""",
    "normalise": "",  # on the way back: see _steering
    "feedback": "",
}


def code(config: RunConfig, arithmetic: Arithmetic | None = None, own: bool = True) -> str:
    """Python text that needs torch, and scikit-learn for the built-in digits or torchvision for a download.

    It does what the Trainer does with the same random numbers in the same order: on the same processor, with the same
    number of threads and PyTorch, it prints the same losses to the last digit. `arithmetic` is what the run was
    computed with: the program takes its number of threads, without it one, and says the rest. Not `own`: the run is of
    another engine than gradviz's Trainer, and its losses may be others.
    """
    title = _("{title}: a LeNet of {layers} layers and its training.").format(title=config.title, layers=config.layers)
    parts = [_header(config, title, arithmetic, own)]
    parts += [part(config) for part in (_data, _block, _net, _initialisation)]
    parts.append(_loop(config, arithmetic.threads_from if arithmetic else {}))
    return "\n\n".join(part for part in parts if part)


def _header(config: RunConfig, title: str, arithmetic: Arithmetic | None, own: bool) -> str:
    if config.dataset == "digits":
        modules, needs = "import math\n", _("Needs torch and scikit-learn, which brings the pictures.")
        library = "from sklearn.datasets import load_digits\n"
    else:
        folder = TORCHVISION_CLASS[config.dataset]
        modules, library = "import gzip\nimport math\nimport os\nimport re\nfrom pathlib import Path\n", ""
        needs = _("Needs torch. Reads {name} from the folder GRADVIZ_DATA, else data; if absent, torchvision downloads it.")
        needs = needs.format(name=folder)
    device = _DEVICE.get(config.device, f'"{config.device}"')
    threads = arithmetic.threads if arithmetic else 1
    as_many = (
        _("as many as the run: others add up in another order, and each sum is rounded") if own
        else _("other numbers add up in another order, and each sum is rounded")
    )  # fmt: skip
    return f'''\
"""{title}

{needs}
{_equality(config, arithmetic) if own else _said(_OF_ANOTHER_ENGINE)}
"""

{modules}
import torch
import torch.nn.functional as F
{library}from torch import nn

device = {device}
torch.set_num_threads({threads})  # {as_many}
random = torch.Generator().manual_seed({config.seed})  # {_("all randomness comes from here")}
'''


_OF_ANOTHER_ENGINE = (
    "«Trains as gradviz does by itself. The trainings of this server are made by another engine, whose losses may be others.»"
)


def _said(template: str) -> str:
    return re.sub("«(.*?)»", lambda marked: _(marked[1]).replace('"', "”"), template)  # some stand in quotes


def _equality(config: RunConfig, arithmetic: Arithmetic | None) -> str:
    """Lines for the head of the program: what its losses are equal to, and what not."""
    same = (
        _("Prints the losses that gradviz records, digit for digit, with the same processor, number of threads and PyTorch:\n"
          "{arithmetic}.").format(arithmetic=arithmetic_text(arithmetic)) if arithmetic else
        _("Prints the losses that gradviz records, digit for digit, with the same processor, number of threads and PyTorch.")
    )  # fmt: skip
    other = _("With others each sum is rounded otherwise: the losses begin nearly the same, and part sooner or later.")
    gpu = _("A GPU may add up in another order each time: not even two runs need be equal there.")
    return "\n".join([same, other] + [gpu] * (config.device != "cpu"))


def _data(config: RunConfig) -> str:
    if config.dataset == "digits":
        return f'''\
# {_("Data: 1,797 scans of 8×8 pixels, enlarged to 28×28, normalised to mean 0 and standard deviation 1")}
scans, labels = load_digits(return_X_y=True)
images = torch.tensor(scans, dtype=torch.float32).view(-1, 1, 8, 8) / 16
images = F.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
images = (images - images[:{DIGITS_TRAIN}].mean()) / images[:{DIGITS_TRAIN}].std()
images, labels = images.to(device), torch.tensor(labels).to(device)
train_images, test_images = images[:{DIGITS_TRAIN}], images[{DIGITS_TRAIN}:]
train_labels, test_labels = labels[:{DIGITS_TRAIN}], labels[{DIGITS_TRAIN}:]
'''
    mean, std = PIXELS[config.dataset]
    mine = ", ".join(f'"{word}"' for word, owner in FOLDERS.items() if owner == config.dataset)
    others = ", ".join(f'"{word}"' for word, owner in FOLDERS.items() if owner != config.dataset)
    return _said(_FILES).format(name=TORCHVISION_CLASS[config.dataset], mean=mean, std=std, mine=mine, others=others,
                         nameless=config.dataset == "mnist")  # fmt: skip


_FILES = '''\
# «Data: 60,000 pictures of 28×28 pixels to train and 10,000 to test, normalised to mean 0 and standard deviation 1»
folder = Path(os.environ.get("GRADVIZ_DATA") or "data").expanduser().absolute()
mine, others = {{{mine}}}, {{{others}}}


def is_mine(place):
    """«Whether the nearest folder that is named after a data set is named after {name}.»"""
    words = [re.sub("[^a-z0-9]", "", above.name.lower()) for above in (place, *place.parents)]
    return next((word in mine for word in words if word in mine | others), {nameless})


def find(place, depth=3):
    """«The four files, packed or not, in a folder or in those inside; None if they are not there.»"""
    parts = dict.fromkeys(["train-images", "train-labels", "t10k-images", "t10k-labels"])
    inside = sorted(place.glob("*"), reverse=True)  # «a plain file comes after the packed one, and takes its place»
    for file in inside:
        if match := re.fullmatch(r"(train|t10k|test)[-_.](images|labels)[-_.]idx\\d([-_.]ubyte)?(\\.gz)?", file.name.lower()):
            parts[match[1].replace("test", "t10k") + "-" + match[2]] = file / file.name if file.is_dir() else file
    if all(parts.values()) and is_mine(place):
        return list(parts.values())
    deeper = (find(file, depth - 1) for file in inside[::-1] if depth and file.is_dir())
    return next(filter(None, deeper), None)


if not (files := find(folder)):
    print(f"«{name} is neither in {{folder}} nor in the folders inside: torchvision downloads it.»")
    try:
        from torchvision.datasets import {name}

        {name}(folder, download=True)
    except Exception as error:
        why = " ".join(str(error).split())
        raise SystemExit(f"«{name} cannot be downloaded: {{why}}»") from None
    files = find(folder)


def read(file, header):
    """«The bytes of a file after its header, on the device.»"""
    content = file.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\\x1f\\x8b" else content
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).to(device)


def read_images(file):
    return (read(file, 16).view(-1, 1, 28, 28).float() / 255 - {mean}) / {std}


train_images, train_labels = read_images(files[0]), read(files[1], 8).long()
test_images, test_labels = read_images(files[2]), read(files[3], 8).long()
'''


def _block(config: RunConfig) -> str:
    if not config.blocks:
        return ""
    norms = {"none": "", "group": "nn.GroupNorm(4, 16)", "layer": "nn.LayerNorm((16, 7, 7))"}
    made = "nn.BatchNorm2d(16)" if config.batch_norm else norms[config.other_norm]
    norm = f"        self.norm{{0}} = {made}\n" if made else ""
    layer = "self.norm{0}(self.conv{0}({1}))" if made else "self.conv{0}({1})"
    activation = ACTIVATIONS[config.activation].code
    branch = {"one": "h", "fixed": f"{1 / math.sqrt(config.blocks)!r} * h", "skip-init": "self.scale * h"}[config.branch_scale]
    scale = "        self.scale = nn.Parameter(torch.zeros(()))  # SkipInit\n" if config.branch_scale == "skip-init" else ""
    result = f"x + {branch}  # {_('the shortcut; nothing after the addition')}" if config.shortcut else "h"
    return f'''\
class Block(nn.Module):
    """(batch, 16, 7, 7) -> {_("the same")}."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(16, 16, 5, padding=2)
        self.conv2 = nn.Conv2d(16, 16, 5, padding=2)
{norm.format(1)}{norm.format(2)}{scale}
    def forward(self, x):
        h = {activation}({layer.format(1, "x")})
        h = {activation}({layer.format(2, "h")})
        return {result}
'''


def _net(config: RunConfig) -> str:
    outside = ACTIVATIONS[config.activation if config.activation_everywhere else "relu"].code
    make_blocks = f"        self.blocks = nn.Sequential(*(Block() for _ in range({config.blocks})))\n" if config.blocks else ""
    use_blocks = "        x = self.blocks(x)\n" if config.blocks else ""
    if config.blocks and config.shortcut and config.device in ("auto", "cpu"):
        when = "x.requires_grad" + ' and device == "cpu"' * (config.device == "auto")
        why = _("the order of memory that the blocks have: shortcuts would carry the other one through all of them")
        use_blocks += f"        if {when}:  # {why}\n"
        use_blocks += "            x.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))\n"
    return f'''\
class DeepLeNet(nn.Module):
    """(batch, 1, 28, 28) -> {_("logits")} (batch, 10)."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5, padding=2)
{make_blocks}        self.fc1 = nn.Linear(16 * 7 * 7, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d({outside}(self.conv1(x)), 2)  # (batch, 6, 14, 14)
        x = F.max_pool2d({outside}(self.conv2(x)), 2)  # (batch, 16, 7, 7)
{use_blocks}        x = {outside}(self.fc1(x.flatten(1)))
        x = {outside}(self.fc2(x))
        return self.fc3(x)
'''


def _initialisation(config: RunConfig) -> str:
    said, weight = _("weights by {init}, biases from PyTorch's default").format(init=config.init), ""
    factor = ACTIVATIONS[config.activation].gain
    gain = "math.sqrt(2)" if factor == math.sqrt(2) else repr(factor)
    if config.init_range is not None:
        said = _("weights from U(−{a:g}, {a:g}), biases from PyTorch's default").format(a=config.init_range)
        weight = _uniform(repr(config.init_range))
    elif config.init == "default":
        said, weight = _("PyTorch's default, U(−1/√fan_in, 1/√fan_in) for weights and biases"), _uniform("bound")
    elif config.init == "critical":
        said = _("block convolutions from the critical range, all else from PyTorch's default")
        inside = "layer.weight.shape == (16, 16, 5, 5)"
        weight = f"spread = {critical_start(config.activation)!r} if {inside} else bound\n            " + _uniform("spread")
    elif config.init == "delta-orthogonal":
        weight = f"""\
if layer.weight.ndim == 4:  # {_("an orthogonal mix of the channels at the middle pixel")}
                middle = nn.init.orthogonal_(torch.empty(layer.weight.shape[:2]), {gain}, generator=random)
                layer.weight.zero_()[:, :, 2, 2] = middle
            else:
                nn.init.orthogonal_(layer.weight, {gain}, generator=random)"""
    else:
        weight = _DRAW[config.init].format(gain=gain)
    lsuv = _said(_LSUV).format(images=lsuv_images(config.blocks), tolerance=LSUV_TOLERANCE) if config.init == "lsuv" else ""
    if lsuv and config.batch_norm and config.blocks:
        lsuv += _said(_FORGET)
    layout = {"cpu": ", memory_format=torch.channels_last", "cuda": "", "mps": ""}.get(
        config.device, ', memory_format=torch.channels_last if device == "cpu" else torch.preserve_format')  # fmt: skip
    digits = _("A pixel's channels lie together on a processor, one kernel steps all weights: last digits hang on that.")
    return f'''\
model = DeepLeNet()
# {_("Initialisation: {said}").format(said=said)}
with torch.no_grad():
    for layer in model.modules():  # {_("in forward order")}
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            {weight}
            layer.bias.uniform_(-bound, bound, generator=random)
{lsuv}{_steering(config)}# {digits}
model.to(device{layout})
optimizer = {_optimizer(config.optimizer, config.lr, config.device)}
{f"{_STATED.format(config=config)}" if _turns_treatment(config) else ""}'''


def _optimizer(word: str, lr: float, device: str) -> str:
    fused = {"cpu": "True", "cuda": "True", "mps": "False"}.get(device, 'device != "mps"')
    return _OPTIMIZER[word].format(lr=lr, fused=fused)


def _uniform(spread: str) -> str:
    return f"layer.weight.uniform_(-{spread}, {spread}, generator=random)"


_LSUV = """

def divide_by_spread(layer, inputs):
    \"\"\"«Until what the layer hands on has variance 1. The bias is left alone, so once is not enough.»\"\"\"
    for _ in range(10):
        spread = layer.forward(*inputs).std()
        if not spread > 0 or abs(spread - 1) < {tolerance}:
            break
        layer.weight /= spread


# «LSUV: one pass of {images} images, in which each layer is divided by its spread before it hands on»
layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
hooks = [layer.register_forward_pre_hook(divide_by_spread) for layer in layers]
with torch.no_grad():
    model(train_images[:{images}].cpu())
for hook in hooks:
    hook.remove()
"""
_FORGET = """\
for module in model.modules():
    if isinstance(module, nn.BatchNorm2d):
        module.reset_running_stats()  # «that pass was no training»
"""
_SHAPE = """

def shape_and_rms(signal):
    \"\"\"«The signal over its largest entry, the rms of that, and the largest entry; the square of 1e-30 would be 0.»\"\"\"
    largest = signal.abs().amax()
    largest = torch.where(largest == 0, 1.0, largest)
    shape = signal / largest
    return shape, shape.square().mean().sqrt(), largest

"""
_STEERED = """

def steer(layer, inputs, z):
    if z.requires_grad{where}:
        z.register_hook({scaled})


# «On the way back, the signal of every layer below the head is scaled before the layer uses it»
{layers}for layer in layers[:-3]:
    layer.register_forward_hook(steer)
"""
_NORMALISE = """
def scaled(signal):
    shape, rms, largest = shape_and_rms(signal)
    return shape * torch.where(rms == 0, 1.0, {threshold} / rms)
"""
_FEEDBACK = """
class Feedback:
    \"\"\"«An integral controller per layer: each step it corrects the part of its error that the layer above does not.»\"\"\"

    def __init__(self):
        self.gains, self.error_above, self.last = {{}}, 0.0, None

    def scaled(self, layer, signal):
        if self.last is None or layer == self.last:  # «the topmost layer begins a new backward pass»
            self.last, self.error_above = layer, signal.new_zeros(())
        gain = self.gains.setdefault(layer, signal.new_zeros(()))
        signal = signal * gain.exp()
        shape, rms, largest = shape_and_rms(signal)
        error = torch.where(rms != 0, math.log({threshold}) - rms.log() - largest.log(), self.error_above)
        self.gains[layer] = gain + {gain} * (error - self.error_above)
        self.error_above = error
        return signal


feedback = Feedback()
"""


def _steering(config: RunConfig) -> str:
    """What scales the backward signal; where the treatment changes it is asked which one is in force."""
    used, turns, controls = _treatments(config), _turns_treatment(config), ""
    threshold, scaled = "threshold" if turns else repr(config.threshold), ""
    if "normalise" in used:
        controls += _NORMALISE.format(threshold=threshold)
        scaled = "scaled"
    if "feedback" in used:
        controls += "\n" * bool(controls) + _said(_FEEDBACK).format(threshold=threshold, gain=FEEDBACK_GAIN)
        back = "lambda signal: feedback.scaled(layer, signal)"
        scaled = f'scaled if treatment == "normalise" else {back}' if scaled else back
    if not controls:
        return ""
    layers = "layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]\n"
    layers = "" if config.init == "lsuv" else layers
    where = ' and treatment in ("normalise", "feedback")' if turns else ""
    return _said(_SHAPE) + controls + _said(_STEERED).format(scaled=scaled, layers=layers, where=where)


# Settings that change in the loop


_STATED = 'treatment, threshold = "{config.treatment}", {config.threshold!r}\n'


def _treatments(config: RunConfig) -> list[str]:
    """All that are in force at some step, each once."""
    return list(dict.fromkeys([config.treatment, *(each.value for each in config.changes if each.field == "treatment")]))


def _turns_treatment(config: RunConfig) -> bool:
    return any(each.field in ("treatment", "threshold") for each in config.changes)


def _turning(config: RunConfig) -> str:
    """What changes before a step."""
    lines = []
    for step in dict.fromkeys(each.step for each in config.changes):
        old, new = config.knobs(step - 1), config.knobs(step)
        lines.append(f"    if step == {step}:  # {_('turned while it trained')}")
        if new.optimizer != old.optimizer:
            lines.append(f"        optimizer = {_optimizer(new.optimizer, new.lr, config.device)}")
        if new.lr != old.lr and config.is_scheduled:
            lines.append(f"        rate = {new.lr!r}")
        elif new.lr != old.lr and new.optimizer == old.optimizer:
            lines += ["        for group in optimizer.param_groups:", f'            group["lr"] = {new.lr!r}']
        if new.treatment != old.treatment or new.threshold != old.threshold:
            lines.append(f'        treatment, threshold = "{new.treatment}", {new.threshold!r}')
        if new.treatment == "feedback" != old.treatment:
            lines.append("        feedback = Feedback()")
    return "".join(line + "\n" for line in lines)


def _treating(config: RunConfig) -> str:
    """What is done to the gradients before the step."""
    if not _turns_treatment(config):
        return _said(_TREATMENT[config.treatment]).format(threshold=repr(config.threshold))
    parts = ""
    for word in _treatments(config):
        if lines := _said(_TREATMENT[word]).format(threshold="threshold"):
            parts += f'    if treatment == "{word}":\n' + re.sub("^(?=.)", "    ", lines, flags=re.MULTILINE)
    return parts


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _loop(config: RunConfig, threads: Mapping[int, int]) -> str:
    first, last = ("blocks[0].conv1", "blocks[-1].conv2") if config.blocks else ("conv1", "fc3")
    words = ("first block", "last block") if config.blocks else ("conv1", "fc3")
    batch = config.batch_size
    without_end = _("Indices of shuffled epochs without end; what is left over at an epoch's end is dropped.")
    few = _("The data set has only {have} images to train, fewer than a batch of {batch}.").format(
        have="{len(train_images)}", batch=batch
    )
    start = f"len(order) - {batch} + 1, {batch}" if batch > 1 else "len(order)"
    collected = _("batch norm now uses the means it collected")
    following = table = ""
    if len(set(threads.values())) > 1:
        table = f"threads = {dict(threads)}  # {_('from these steps on so many, as the run had them')}\n"
        following = "    if step in threads:\n        torch.set_num_threads(threads[step])\n"
    evaluation = f"model.eval()  # {collected}\n" if config.batch_norm and config.blocks else ""
    return f'''\
def batches():
    """{without_end}"""
    if len(train_images) < {batch}:
        raise SystemExit(f{_quoted(few)})
    while True:
        order = torch.randperm(len(train_images), generator=random).to(device)
        for start in range(0, {start}):
            yield order[start : start + {batch}]


def rms(gradient):
    """{_("Root mean square. In float32 the square of 1e-30 would be 0.")}"""
    return gradient.cpu().double().square().mean().sqrt().item()


{share_code(config)}# {_("Training: one batch per step")}
{table}for step, batch in zip(range({config.steps}), batches()):
{following}{_turning(config)}{PACED if config.is_scheduled else ""}    labels = train_labels[batch]
    logits = model(train_images[batch])
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    accuracy = (logits.argmax(1) == labels).float().mean()
    first, last = rms(model.{first}.weight.grad), rms(model.{last}.weight.grad)
    print(
        f"step {{step}}  loss {{loss.item():.9g}}  accuracy {{accuracy.item():.3f}}  "
        f"gradient: {words[0]} {{first:.3e}}, {words[1]} {{last:.3e}}"
    )
    if not math.isfinite(loss.item()):
        raise SystemExit({_quoted(_("The loss is no longer finite: the training diverged."))})
{_treating(config)}    optimizer.step()

{evaluation}with torch.no_grad():
    right = sum((model(x).argmax(1) == y).sum().item() for x, y in zip(test_images.split(250), test_labels.split(250)))
print(f"test accuracy {{right / len(test_labels):.4f}}")
'''
