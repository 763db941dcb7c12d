"""Those of the diagnosis: its rows of `MESSAGES`."""

from __future__ import annotations

DIAGNOSIS: dict[str, str | tuple[str, str]] = {
    # diagnosis: the sentence
    "waits": "Waiting for the first step.",
    "never-began": "No step was recorded.",
    "no-gradient": "No layer's gradient was measured.",
    "diverged": "Diverged: at step {step} the loss is {loss:number}; inf or nan first appears in {layer}.",
    "diverged-in-loss": "Diverged: at step {step} the loss is {loss:number}, while every layer is still finite.",
    "dead": "Dead relu layers: {layer} hands on exactly 0 for every input, so no gradient passes it; {loss}.",
    "vanished": "Vanished to exact zero: in {count} of the {all} layers, up to {last}, every gradient entry is 0 in float32, "
    "while {back} has {g_back:number}; {loss}.",
    "exploding-signal": "Exploding: on its way back from {back} to {front} the signal grows {growth:ratio}-fold "
    "({s_back:number} to {s_front:number}); {loss}.",
    "exploding-gradient": "Exploding: the gradient of {front} is {ratio:ratio} times that of {back} ({g_front:number} against "
    "{g_back:number}); {loss}.",
    "exploding-loss": "Exploding: {loss}, and the largest weight gradient is {size:number}.",
    "recovering-gradient": "Recovering: the gradient of {front} has grown {growth:ratio}-fold since step 0 ({g_start:number} "
    "to {g_front:number}); {loss}.",
    "recovering-signal": "Recovering: on its way back from {back} to {front} the signal grew {before:ratio}-fold at step 0 "
    "and now grows {growth:ratio}-fold; {loss}.",
    "recovering-loss": "Recovering: the loss began at {before:loss}; now {loss}.",
    "vanishing": "Vanishing: the gradient of {front} is {ratio:ratio} of {back}'s ({g_front:number} against {g_back:number}); "
    "{loss}.",
    "saturated": "Saturated sigmoids: {count} of the {all} layers hand on an rms above {split} or below {off} (0.5 is the "
    "middle), and {loss}.",
    "unusable": "The optimiser cannot use this gradient: {front} has {g_front:number}, and {pace}; {loss}.",
    "stuck": "Stuck at chance: after {step} steps {loss}, although the gradient does reach {front} ({g_front:number} against "
    "{g_back:number} in {back}).",
    "healthy": "Healthy: {front} gets a gradient of {g_front:number}, {back} {g_back:number}, and {loss}.",
    "healthy-so-far": "Healthy so far: {front} gets a gradient of {g_front:number}, {back} {g_back:number}; {loss}.",
    "loss-untold": "the loss was not told",
    "loss-since": "the loss is {loss:loss}, and was {start:loss} at step {step}",
    "loss-down": "the loss is down to {loss:loss} (chance is {chance:.2f})",
    "loss-at-chance": "the loss stands at chance, {loss:loss}",
    "loss-above-chance": "the loss is {loss:loss}, above chance ({chance:.2f})",
    "pace": "at this pace it needs {steps:ratio} steps to change its weights by their own size",
    "pace-none": "a step does not change its float32 weights at all",
    "layer-and-more": ("{layer} (and {n} more)", "{layer} (and {n} more)"),  # alike in English alone
    # diagnosis: what was measured
    "measured-gradient": "Weight gradient (rms): {a:number} in {front}, {b:number} in {back}.",
    "measured-gradient-ratio": "Weight gradient (rms): {a:number} in {front}, {b:number} in {back}; ratio {ratio:ratio}.",
    "measured-signal": "Backward signal (rms): {b:number} at {back}, {a:number} at {front}.",
    "measured-factor": "A line through its log gives a factor of {factor:.3g} per layer.",
    "measured-loss": "Loss: {loss:loss}, mean of steps {first} to {last}.",
    "measured-loss-chance": "Loss: {loss:loss}, mean of steps {first} to {last}; a guess has {chance:.3f}.",
    "measured-test": "Test accuracy {share:.0%} at step {step}.",
    "measured-update": "Update: a step changes the weights of {front} by {a:number} of their size, those of {back} by "
    "{b:number}.",
    "measured-update-front": "Update: a step changes the weights of {front} by {a:number} of their size.",
    "measured-no-update": "Update: a step does not change a single float32 weight of {front}.",
    "measured-treatment": "Treatment: {treatment} turns the {a:number} of {front} into {b:number} before the step.",
    "measured-adam": "Adam: {g:number} against its eps of {eps:number1} leaves g/(g + eps) = {share:number} of a full step.",
    "measured-zeros": (
        "Exact zeros: every gradient entry of {n} layer is 0; the next, {alive}, has {g:number}.",
        "Exact zeros: every gradient entry of {n} layers is 0; the next, {alive}, has {g:number}.",
    ),
    "measured-zeros-all": (
        "Exact zeros: every gradient entry of {n} layer is 0.",
        "Exact zeros: every gradient entry of {n} layers is 0.",
    ),
    "measured-dead": "Dead: {layer} hands on exactly 0 for every input.",
    "measured-silent": "Silent: {layer} hands on exactly 0 for every input.",
    "measured-saturation": (
        "Saturation: {n} layer hands on an rms from {low:number} to {high:number}, where 0.5 is the middle.",
        "Saturation: {n} layers hand on an rms from {low:number} to {high:number}, where 0.5 is the middle.",
    ),
    "measured-activation": "Activation (rms): {a:number} in {front}, {b:number} in {back}, {c:number} in {last}.",
    "measured-pace": "Pace: a step changes the typical layer by {typical:number} of its size, and {most} by {share:number}, "
    "the most.",
    "measured-kept": "Treated gradient: of the gradient that the backward pass left, the optimiser gets {ratio:ratio} "
    "(clipping, or whatever else was done to it).",
    "measured-still": "Standing still: of the entries with a gradient, {share:.0%} in the typical layer are not moved by a step.",
    "measured-overflows": (
        "The scaler left out {n} step whose gradient had overflown.",
        "The scaler left out {n} steps whose gradient had overflown.",
    ),
    # diagnosis, of a watched net: lengths are rms × √entries
    "watched-vanishing": "Vanishing: the gradient of {front} is {ratio:ratio} as long as that of {back} (length "
    "{g_front:number} against {g_back:number}); {loss}.",
    "watched-exploding-signal": "Exploding: on its way back from {back} to {front} the signal grows {growth:ratio}-fold "
    "(length {s_back:number} to {s_front:number}); {loss}.",
    "watched-exploding-gradient": "Exploding: the gradient of {front} is {ratio:ratio} times as long as that of {back} "
    "(length {g_front:number} against {g_back:number}); {loss}.",
    "watched-recovering-gradient": "Recovering: the gradient of {front} has grown {growth:ratio}-fold since step 0 (length "
    "{g_start:number} to {g_front:number}); {loss}.",
    "watched-dead": "Dead relu layers: behind {layer} relu hands on exactly 0 for every input, so no gradient passes it; {loss}.",
    "watched-saturated": "Saturated units: {count} of the {all} layers with a sigmoid or tanh behind them give it numbers at "
    "which it is flat (rms {rms:number} in {layer}); {loss}.",
    "watched-diverged": "Diverged: at step {began} inf or nan first appears, in {layer}; {before}.",
    "watched-diverged-in-loss": "Diverged: the loss is not a finite number, while every layer is still finite; {before}.",
    "watched-healthy-so-far": "Healthy so far: the gradient of {front} has length {g_front:number}, that of {back} "
    "{g_back:number}; {loss}.",
    "watched-measured-gradient": "Weight gradient (length): {a:number} in {front}, {b:number} in {back}.",
    "watched-measured-gradient-ratio": "Weight gradient (length): {a:number} in {front}, in the middle of the first quarter "
    "of the layers, {b:number} in {back}, in the middle of the last; ratio {ratio:ratio}.",
    "watched-measured-signal": "Backward signal (length): {b:number} at {back}, {a:number} at {front}.",
    "watched-measured-dead": "Dead: no signal comes back through the relu behind {layer}, though one reaches the layer behind "
    "it.",
    "watched-measured-saturation": (
        "Saturation: {n} layer gives a sigmoid or tanh numbers of an rms from {low:number} to {high:number}.",
        "Saturation: {n} layers give a sigmoid or tanh numbers of an rms from {low:number} to {high:number}.",
    ),
    "loss-last": "the last loss that was told, of step {step}, was {loss:loss}",
    "overflowing": "The scaler keeps overflowing: it left out {count} steps, because a gradient was not finite, and {steps} "
    "steps are recorded.",
    "detached": "No gradient: none reaches {layer}, though it is called and is to be trained.",
    "lost": "No gradient: the optimiser gets none for {layer}, though the backward pass has left one.",
    "unheld": "Not in the optimiser: {layer} gets a gradient, but no optimiser that is watched holds its weights, so they "
    "stay as they are.",
    "under-eps": "The optimiser cannot use this gradient: in the typical layer it has an rms of {g:number}, and Adam's usual "
    "eps of {eps:number1} outweighs it; {loss}.",
    "large": "Steps too large: a step has changed the typical layer by {share:number} of its size, so that little remains of "
    "what it was; {loss}.",
    "coarse": "Weights too coarse to move: in {count} of the {all} layers, such as {layer}, a step leaves {share:.0%} of the "
    "entries with a gradient as they are, because it is smaller than the distance of two neighbouring numbers of 16 bits; "
    "{loss}.",
    "still": "Stands still: no step so far has changed {count} of the {all} layers by more than {slowest:number1} of their "
    "size; the fastest of them, {layer}, by {share:number}; {loss}.",
    # diagnosis, of a watched net: what to do next
    "advice-signal": "Next: give the gradient a way around the layers (a residual path), a norm between them, or an "
    "initialisation that keeps its size.",
    "advice-signal-relu": "Next: give the gradient a way around the layers (a residual path) or a norm between them; without "
    "either, start relu layers from He's initialisation (kaiming_normal_).",
    "advice-signal-sigmoid": "Next: put relu or gelu in place of the sigmoids, whose slope is at most 1/4, and a norm or a "
    "residual path around them.",
    "advice-signal-tanh": "Next: start the layers from Xavier's initialisation with the gain of tanh, 5/3, or give the "
    "gradient a residual path or a norm.",
    "advice-exploding": "Next: start from smaller weights, put a norm between the layers or scale down what a residual path "
    "adds; clipping the gradient hides this and does not cure it.",
    "advice-steps": "Next: take a tenth of the learning rate, begin with a warm-up, and clip the gradient's norm.",
    "advice-diverged": "Next: look at the step before: a smaller learning rate, clipping or a warm-up help where a loss shot "
    "up, an eps under a root, a log or a division where it did not.",
    "advice-batch": "Next: look at the data of that step: the first layer's output is not finite, though its weights are.",
    "advice-scaler": "Next: give the scaler its usual settings (growth every 2000 steps); if it still overflows, train in "
    "bfloat16, or look for the layer whose activations leave the range of float16.",
    "advice-detached": "Next: look between this layer and the loss for detach(), no_grad, .data, .item() or an argmax; if it "
    "is meant so, freeze the layer with requires_grad_(False).",
    "advice-lost": "Next: look whether zero_grad() stands between backward() and step(), or something sets grad to 0.",
    "advice-unheld": "Next: make the optimiser after the net is complete and give it all of model.parameters(); if it is "
    "meant so, freeze the layer with requires_grad_(False).",
    "advice-dead": "Next: a smaller learning rate or a warm-up, biases that start at 0, or leaky relu or gelu, which let a "
    "gradient back.",
    "advice-coarse": "Next: keep the weights in float32 and compute in bfloat16 (torch.autocast), or raise the learning rate.",
    "advice-clip": "Next: the clipping takes nearly all of the gradient: raise its threshold to the usual length of the "
    "gradient.",
    "advice-eps": "Next: the gradient is smaller than Adam's eps: scale the loss up (take the mean over less), or lower eps.",
    "advice-rate": "Next: raise the learning rate tenfold, and again until the loss moves; or look whether a schedule holds "
    "it at 0.",
    "advice-saturated": "Next: bring what goes in to mean 0 and deviation 1, start from smaller weights, or put a norm before "
    "the sigmoid or tanh.",
    # diagnosis: when it turned
    "turn-nonfinite": "The first inf or nan.",
    "turn-vanishes": "The gradient begins to vanish: more than 1000-fold from {back} to {front}.",
    "turn-vanishes-no-longer": "The gradient no longer vanishes: less than 1000-fold from {back} to {front}.",
    "turn-explodes": "The signal begins to explode: more than 1000-fold from {back} to {front}.",
    "turn-explodes-no-longer": "The signal no longer explodes: less than 1000-fold from {back} to {front}.",
    "turn-zero": "The gradient of {front} is exactly 0.",
    "turn-zero-no-longer": "The gradient of {front} is no longer exactly 0.",
    "turn-grown": "The gradient of {front} is ten times what it was at step 0.",
    "turn-falls": "The loss falls below ten times chance.",
    "turn-leaves-chance": "The loss leaves chance.",
    "turn-loud": "The loss passes ten times chance.",
    "turn-dead": "{layer} is dead: it hands on exactly 0.",
    "turn-alive": "{layer} is alive again.",
    # diagnosis, in the words of a deep LeNet
    "lenet-dead": "Dead relu layers: {layer} hands on exactly 0 for every image, so no gradient passes it; {loss}.",
    "lenet-vanished": "Vanished to exact zero: in {count} of the {all} block convolutions, up to {last}, every gradient entry "
    "is 0 in float32, while {back} has {g_back:number}; {loss}.",
    "lenet-saturated": "Saturated sigmoids: {count} of the {all} block convolutions hand on an rms above {split} or below "
    "{off} (0.5 is the middle), and {loss}.",
    "lenet-measured-factor": "A line through its log gives a factor of {factor:.3g} per convolution.",
    "lenet-measured-loss-chance": "Loss: {loss:loss}, mean of steps {first} to {last}; a guess among ten classes has "
    "{chance:.3f}.",
    "lenet-measured-zeros": (
        "Exact zeros: every gradient entry of {n} block convolution is 0; the next, {alive}, has {g:number}.",
        "Exact zeros: every gradient entry of {n} block convolutions is 0; the next, {alive}, has {g:number}.",
    ),
    "lenet-measured-dead": "Dead: {layer} hands on exactly 0 for every image.",
    "lenet-measured-saturation": (
        "Saturation: {n} block convolution hands on an rms from {low:number} to {high:number}, where 0.5 is the middle.",
        "Saturation: {n} block convolutions hand on an rms from {low:number} to {high:number}, where 0.5 is the middle.",
    ),
    "lenet-measured-activation": "Activation (rms): {a:number} in {front}, {b:number} in {back}, {c:number} in the logits.",
    "lenet-turn-vanishes": "The gradient begins to vanish: more than 1000-fold from the last block to the first.",
    "lenet-turn-vanishes-no-longer": "The gradient no longer vanishes: less than 1000-fold from the last block to the first.",
    "lenet-turn-explodes": "The signal begins to explode: more than 1000-fold from the last block to the first.",
    "lenet-turn-explodes-no-longer": "The signal no longer explodes: less than 1000-fold from the last block to the first.",
}
